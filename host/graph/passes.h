// Rewrites of a graph, in the order in which a training graph goes through them. All keep the
// order of execution valid; a value that no op computes any more stays in the list, without memory.
#pragma once

#include "host/graph/graph.h"

namespace lockstep {

// Puts a relu into the convolution or dense op whose result only it reads.
void fuse_activations(Graph* graph);

enum class LossMode { measure, differentiate };

// Replaces the softmax that ends a forward graph by SoftmaxCrossEntropyOp on its logits, which
// become the graph's output. The metrics lie behind the parameters' gradients when
// differentiating, alone otherwise.
void attach_softmax_cross_entropy(Graph* graph, LossMode mode);

// Appends the gradients of the forward ops, last op first, beginning at the loss. Each weight
// gradient comes before the data gradient of the same op, so that its slices leave early; nothing
// is computed that no parameter needs. A relu's gradient is an op of its own.
void append_gradients(Graph* graph);

// Folds a relu's gradient into the data gradient that computes what it masks (`relu_mask`).
void fold_relu_gradients(Graph* graph);

}  // namespace lockstep

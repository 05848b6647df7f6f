// Rewrites of a graph, in the order in which a training graph goes through them. All keep the
// order of execution valid; a value that no op computes any more stays in the list, without memory.
#pragma once

#include "host/graph/graph.h"

namespace lockstep {

// Puts a relu into the convolution or dense op whose result only it reads.
void fuse_activations(Graph* graph);

// Joins expressions: a MapOp whose result only one other reads, at the same elements, becomes part
// of it.
void fuse_maps(Graph* graph);

enum class LossMode { measure, differentiate };

// Gives every parameter that the loss (or where there is none, an output) depends on its place in a
// root: sets gradient_offset, gradient_count, gradient_sums and flat_size, metrics behind. With
// `measure` a root holds metrics alone. Frozen parameters have no place.
void place_gradients(Graph* graph, LossMode mode);

// Replaces the softmax that ends a forward graph by SoftmaxCrossEntropyOp on its logits, which
// become the graph's output. Call behind place_gradients.
void attach_softmax_cross_entropy(Graph* graph, LossMode mode);

// Appends the gradients of the forward ops, last op first, beginning at the loss. Each weight
// gradient comes before the data gradient of the same op, so that its slices leave early; nothing
// is computed that no parameter needs. A relu's gradient is an op of its own.
void append_gradients(Graph* graph);

// Folds a relu's gradient into the data gradient that computes what it masks (`relu_mask`).
void fold_relu_gradients(Graph* graph);

// Takes out ops whose results nobody reads.
void drop_dead_ops(Graph* graph);

// All of these for a forward graph with its loss, whose gradients have their places.
void finish_training_graph(Graph* graph);

}  // namespace lockstep

// Where the weights of a model's layers lie in Keras' files.
#pragma once

#include <string>
#include <vector>

#include "host/graph/graph.h"
#include "host/nn/model.h"

namespace lockstep {

// A layer that is no model, or a part of one that Keras stores by itself, and its parameters.
struct StoredLayer {
  std::string name;  // the layer's, with those of the models around it before: "base.dense"
  std::string path;  // of Keras 3's group: "layers/functional/layers/dense"
  int top = 0;       // index of the outermost model's layer that it is, or is in
  std::vector<const Parameter*> parameters;  // in the order of get_weights()
  // Another group's that Keras 3 writes into this one too, before its own.
  std::vector<const Parameter*> again = {};
  std::vector<const Parameter*> written() const;  // `again`, then its own
};

// All of them, also those without weights, in the order of Keras' model.layers. `parameters`, which
// outlive the result, are those of a graph of the model.
std::vector<StoredLayer> stored_layers(const Model& model,
                                       const std::vector<Parameter>& parameters);

// Sorted into the order of get_weights().
void sort_by_offset(std::vector<const Parameter*>* parameters);

// Those that an optimizer has slots for, in the order of Keras' model.trainable_variables.
std::vector<const Parameter*> trained_parameters(const std::vector<Parameter>& parameters);

}  // namespace lockstep

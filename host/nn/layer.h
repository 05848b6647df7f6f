// What a layer is: a row of the table in layer_table.cc, and what its build function sees.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "host/core/result.h"
#include "host/graph/graph_builder.h"

namespace lockstep {

inline constexpr double kEpsilon = 1e-7;  // keras.config.epsilon()

// Entries of the largest activation row and of the largest parameter: kernels count in int.
inline constexpr int64_t kLargestTensor = 2147483647;

// Whether all dimensions are positive and the product is at most kLargestTensor.
bool is_allowed_shape(const Shape& shape);

using Tensors = std::vector<SymbolicTensor>;

// What a value of a config may be. Names of classes may be strings ("zeros", "relu",
// "GlorotUniform") or Keras' objects {"class_name", "config"}; they are resolved to the object.
enum class KeyKind {
  integer,      // any whole number
  number,       // any finite number
  flag,         // true or false
  text,         // a string
  sizes,        // a whole number for all axes, or a list of one for each
  axis,         // a whole number, or a list of them
  shape,        // a list of whole numbers
  activation,   // null, a name
  initializer,  // null or a class
  regularizer,
  constraint,
  any,  // the layer checks it
};

// A key of Keras' get_config(). Without a default it must be given.
struct ConfigKey {
  std::string name;
  KeyKind kind = KeyKind::any;
  nlohmann::json default_value = nlohmann::json::value_t::discarded;
  int axes = 0;  // of `sizes`
  bool is_required() const { return default_value.is_discarded(); }
};

class LayerContext;

// What becomes of the masks of a layer's inputs (SymbolicTensor::mask).
enum class Masking {
  drop,   // the output has none, as with Keras' layers that do not support masks
  pass,   // it has the first input's
  join,   // where all inputs have one it counts what any of them counts
  build,  // the build function decides
};

// One of Keras' layers: one file with a function that returns this, and a line of the table.
struct LayerType {
  std::string class_name;       // Keras'
  std::string summary;          // for `lockstep inspect --layers`
  std::vector<ConfigKey> keys;  // beside name, trainable and dtype, which every layer has
  Result<SymbolicTensor> (*build)(LayerContext& layer, const Tensors& inputs) = nullptr;
  Masking masking = Masking::drop;
  std::string module = "keras.layers";  // where Keras keeps it
  // How Keras begins the names that it gives: "conv2d" for Conv2D.
  std::string default_name() const;
};

// The layer of Keras' class name, or an error that names the nearest known one, or says why it is
// refused (Lambda, layers that come later).
Result<LayerType> layer_type(const std::string& class_name);
std::vector<std::string> layer_class_names();

// The config with every key that the type has, defaults filled in and classes resolved. Unknown
// keys are refused with the nearest known one, but for those of Keras that change no number here
// ("dtype" float32 or mixed_bfloat16, "build_config", "batch_shape" …).
Result<nlohmann::json> resolve_config(const LayerType& type, const std::string& name,
                                      const nlohmann::json& config);

// Whether a layer in a model's config has Keras' policy mixed_bfloat16.
bool asks_for_bf16(const nlohmann::json& config);

// The same for the keys of anything else; `owner` begins the message.
Result<nlohmann::json> resolve_keys(const std::string& owner, const std::vector<ConfigKey>& keys,
                                    const nlohmann::json& config);

// Where windows lie along one axis, as Keras places them: "same" gives ceil(in / stride) windows
// and puts the odd row of padding last. `window` is the dilated window.
struct WindowPlacement {
  int64_t count = 0;
  int64_t padding_before = 0;
};
WindowPlacement place_windows(int64_t in, int64_t window, int64_t stride, bool same);

// One call of a layer, as its build function sees it. Checks of what the user asked for are made
// here, with the layer's name in the message.
class LayerContext {
 public:
  struct Call {
    std::string name;  // of the layer, with the names of the models around it before
    std::string class_name;
    const nlohmann::json* config = nullptr;  // resolved
    nlohmann::json arguments;                // of the call: {"training": false}
    int index = 0;   // of the layer in the user's config: keys its randomness
    int number = 0;  // of the call, of this layer
    bool trainable = true;
  };
  LayerContext(GraphBuilder& builder, Call call) : builder_(builder), call_(std::move(call)) {}

  // --- the config ---
  int64_t integer(const char* key) const { return at(key).get<int64_t>(); }
  double number(const char* key) const { return at(key).get<double>(); }
  bool flag(const char* key) const { return at(key).get<bool>(); }
  std::string text(const char* key) const { return at(key).get<std::string>(); }
  std::vector<int64_t> sizes(const char* key) const { return at(key).get<std::vector<int64_t>>(); }
  bool is_null(const char* key) const { return at(key).is_null(); }
  const nlohmann::json& at(const char* key) const { return call_.config->at(key); }
  // nullptr where the config has no such key.
  const nlohmann::json* find(const char* key) const {
    const auto found = call_.config->find(key);
    return found == call_.config->end() ? nullptr : &*found;
  }

  const nlohmann::json& config() const { return *call_.config; }

  const std::string& name() const { return call_.name; }
  int index() const { return call_.index; }
  int call_number() const { return call_.number; }
  // Whether this call computes as in training: not in inference, nor where it says training=False.
  bool training() const;
  bool trainable() const { return call_.trainable; }
  const nlohmann::json& arguments() const { return call_.arguments; }

  // The context of a layer within this one: the same weights, randomness and name. Frozen where
  // either is.
  LayerContext wrapped(const std::string& class_name, const nlohmann::json& config, bool trainable,
                       int call_number) const;

  // "layer 'conv2d' (Conv2D): <what>".
  Error error(const std::string& what) const;
  Status check_axes(const Shape& shape, size_t axes, const std::string& remedy) const;
  Status check_size(const std::string& what, const Shape& shape) const;
  Status check_choice(const std::string& what, const std::string& value,
                      const std::vector<std::string>& known) const;
  Status check_positive(const char* key) const;
  Status check_inputs(const Tensors& inputs, size_t count) const;
  // An axis of Keras (negative counts from the end; 0 is the batch, refused) as one of the row's.
  Result<size_t> row_axis(int64_t axis, const Shape& shape) const;

  // --- the graph ---
  // A parameter whose initializer, regularizer and constraint are the config's keys
  // "<name>_initializer" …, where there are such. Frozen where the layer is.
  int64_t parameter(const std::string& name, const Shape& shape);
  int64_t parameter(ParameterSpec spec);

  SymbolicTensor op(const std::string& what, OpAttributes attributes, const Tensors& inputs,
                    Shape output_shape);
  GraphBuilder& builder() { return builder_; }

  // y = expression(inputs…), elementwise; inputs of one shape.
  SymbolicTensor map(const std::string& what, const Expression& expression, const Tensors& inputs);
  // The same with operands that may be broadcast or parameters.
  SymbolicTensor map(const std::string& what, const Expression& expression, const Tensors& inputs,
                     const std::vector<MapOperand>& operands, const Shape& shape,
                     const Broadcast& noise = {});
  // Each output element is the sum (or the maximum) of a list of input elements.
  SymbolicTensor gather(const std::string& what, IndexLists lists, const Tensors& inputs,
                        Shape output_shape, Gathering gathering = Gathering::sum, float fill = 0,
                        bool split_ties = false);
  // Output element o is input element index[o]; -1: `fill`.
  SymbolicTensor pick(const std::string& what, const std::vector<int64_t>& index,
                      const Tensors& inputs, Shape output_shape, float fill = 0);
  // The sum, mean or largest over some axes of the row; the axes stay with size 1 where `keep`.
  enum class Reduction { sum, mean, maximum };
  SymbolicTensor reduce(const std::string& what, const SymbolicTensor& input,
                        const std::vector<size_t>& axes, Reduction reduction, bool keep);
  // The same numbers in each row.
  SymbolicTensor constant(const std::string& what, const std::vector<float>& values,
                          const Shape& shape);
  // The tensor with axes of size 1 repeated, as numpy broadcasts; shapes of as many axes.
  SymbolicTensor stretch(const std::string& what, const SymbolicTensor& input, const Shape& shape);
  // Applies a resolved activation ("relu", or {"class_name", "config"}; null: none).
  Result<SymbolicTensor> activate(const SymbolicTensor& input, const nlohmann::json& activation);

 private:
  GraphBuilder& builder_;
  const Call call_;
};

// A call of a layer as Keras' __call__ makes it: the build function, then what the config's
// activity_regularizer adds to the loss, and the output's mask.
Result<SymbolicTensor> call_layer(const LayerType& type, LayerContext& layer,
                                  const Tensors& inputs);

// The operand of a whole input, and of one with the channels on the last axis alone.
MapOperand whole_operand(int input, const SymbolicTensor& tensor);
MapOperand parameter_operand(int64_t parameter, const Broadcast& broadcast);

}  // namespace lockstep

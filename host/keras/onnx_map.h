// Elementwise ops and gathers as ONNX nodes.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "host/keras/onnx_values.h"

namespace lockstep {

// A value whose entry f is entry broadcast.at(f) of another one.
struct StretchedValue {
  int source = -1;
  Broadcast broadcast;
};
using StretchedValues = std::map<int, StretchedValue>;

// Whether an expression is one that a trained model's inference may hold: it is not random, and
// nothing in it changes from run to run.
bool is_onnx_expression(const Expression& expression);

// Whether its lists are such: none is empty among longer ones, but where that gives 0.
bool is_onnx_gather(const GatherOp& gather);

// op.outputs[0] = the map's expression. Operands that `stretched` knows are left to ONNX to repeat.
void add_onnx_map(const OpDesc& op, const MapOp& map, const StretchedValues& stretched,
                  OnnxValues* values);

// op.outputs[0] = the lists' sums or maxima. What it repeats as a broadcast would is noted in
// `stretched`.
void add_onnx_gather(const OpDesc& op, const GatherOp& gather, StretchedValues* stretched,
                     OnnxValues* values);

// A new value: entries of `value`, read along these axes from its first entry on.
int add_onnx_axes(const std::string& name, int value, int64_t features, const IndexAxes& axes,
                  OnnxValues* values);

}  // namespace lockstep

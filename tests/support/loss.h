#pragma once

namespace lockstep {

// Of the models that classify.
inline constexpr const char* kLoss = "sparse_categorical_crossentropy";

}  // namespace lockstep

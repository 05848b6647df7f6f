// One function a layer, in layers/ (a family of layers shares a file); the table in layer_table.cc
// lists them.
#pragma once

#include "host/nn/layer.h"

namespace lockstep::layers {

LayerType activation();
LayerType activity_regularization();
LayerType add();
LayerType alpha_dropout();
LayerType average();
LayerType average_pooling1d();
LayerType average_pooling2d();
LayerType average_pooling3d();
LayerType batch_normalization();
LayerType center_crop();
LayerType concatenate();
LayerType conv1d();
LayerType conv1d_transpose();
LayerType conv2d();
LayerType conv2d_transpose();
LayerType conv3d();
LayerType conv3d_transpose();
LayerType cropping1d();
LayerType cropping2d();
LayerType cropping3d();
LayerType custom_scale_layer();
LayerType dense();
LayerType depthwise_conv1d();
LayerType depthwise_conv2d();
LayerType dot();
LayerType dropout();
LayerType einsum_dense();
LayerType elu();
LayerType embedding();
LayerType flatten();
LayerType gaussian_dropout();
LayerType gaussian_noise();
LayerType global_average_pooling1d();
LayerType global_average_pooling2d();
LayerType global_average_pooling3d();
LayerType global_max_pooling1d();
LayerType global_max_pooling2d();
LayerType global_max_pooling3d();
LayerType group_normalization();
LayerType identity();
LayerType layer_normalization();
LayerType layer_scale();
LayerType leaky_relu();
LayerType masking();
LayerType max_pooling1d();
LayerType max_pooling2d();
LayerType max_pooling3d();
LayerType maximum();
LayerType minimum();
LayerType multiply();
LayerType normalization();
LayerType permute();
LayerType prelu();
LayerType relu();
LayerType repeat_vector();
LayerType rescaling();
LayerType reshape();
LayerType resizing();
LayerType rms_normalization();
LayerType separable_conv1d();
LayerType separable_conv2d();
LayerType softmax();
LayerType spatial_dropout1d();
LayerType spatial_dropout2d();
LayerType spatial_dropout3d();
LayerType spectral_normalization();
LayerType stochastic_depth();
LayerType subtract();
LayerType time_distributed();
LayerType unit_normalization();
LayerType up_sampling1d();
LayerType up_sampling2d();
LayerType up_sampling3d();
LayerType zero_padding1d();
LayerType zero_padding2d();
LayerType zero_padding3d();

}  // namespace lockstep::layers

"""ResNet-20 in Keras, layer by layer as models/resnet.cc has it."""

import keras
from keras import layers


def conv(x, filters, kernel, stride):
    return layers.Conv2D(filters, kernel, strides=stride, padding="same", use_bias=False,
                         kernel_initializer="he_normal")(x)


def normalized(x):
    return layers.BatchNormalization()(x)


def basic_block(x, filters, stride):
    y = layers.Activation("relu")(normalized(conv(x, filters, 3, stride)))
    y = normalized(conv(y, filters, 3, 1))
    if stride != 1:
        x = normalized(conv(x, filters, 1, stride))
    return layers.Activation("relu")(layers.Add()([x, y]))


def resnet20(classes):
    image = keras.Input((32, 32, 3))
    x = layers.Activation("relu")(normalized(conv(image, 16, 3, 1)))
    for filters in (16, 32, 64):
        for block in range(3):
            x = basic_block(x, filters, 2 if block == 0 and filters > 16 else 1)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.Dense(classes, activation="softmax")(x))

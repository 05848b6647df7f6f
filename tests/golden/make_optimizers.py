"""Makes tests/golden/optimizers.json: what Keras' optimizers and schedules compute.

    python tests/golden/make_optimizers.py            writes the file
    python tests/golden/make_optimizers.py --check    compares it with what Keras computes now

Needs the packages of tests/golden/requirements.txt; `./dev golden` makes an environment for it.
Optimizers: ten steps in float64 over a small vector, weights and gradients by the formula of
make_golden.py (tensors 0 and 1 + step), in [-1, 1); the weights and slots after the last step.
Where norms or names count the vector is cut into two variables, w and b, where shapes do into some
of several ranks; a slot that is smaller than its variable has zeros behind it.
Schedules: the rate of every 7th of 200 steps.
"""

import pathlib
import sys

from golden_file import write_or_check
from make_golden import uniform  # first: it chooses the backend, and float64

import keras
import numpy as np
from keras import optimizers
from keras.optimizers import schedules

FILE = pathlib.Path(__file__).with_name("optimizers.json")
SIZE = 37
STEPS = 10
SCHEDULE_STEPS = range(0, 200, 7)
DIGITS = 9
PARTS = {"w": 20, "b": SIZE - 20}
EXCLUDED = ["b"]
SHAPES = {"w": (4, 5), "k": (2, 2, 3), "b": (5,)}
MATRICES = {"tall": (5, 3), "wide": (3, 4), "b": (4,), "embedding": (3, 2)}
# Slots that Keras doesn't name alone, as an optimizer's attributes.
OWN_SLOTS = {
    optimizers.Adafactor: {"r": "_r", "c": "_c", "velocity": "_v"},
    optimizers.Muon: {"momentum": "momentums", "velocity": "adam_velocities"},
}


def schedule_cases():
    return {
        "exponential": schedules.ExponentialDecay(0.1, 30, 0.5),
        "exponential_staircase": schedules.ExponentialDecay(0.1, 30, 0.5, staircase=True),
        "exponential_slow": schedules.ExponentialDecay(0.02, 7, 0.96),
        "piecewise": schedules.PiecewiseConstantDecay([28, 60, 133], [0.1, 0.01, 0.05, 0.002]),
        "polynomial": schedules.PolynomialDecay(0.1, 150),
        "polynomial_cycle": schedules.PolynomialDecay(0.1, 45, 0.01, power=0.5, cycle=True),
        "polynomial_square": schedules.PolynomialDecay(0.1, 120, 0.0, power=2.0),
        "inverse_time": schedules.InverseTimeDecay(0.1, 20, 0.7),
        "inverse_time_staircase": schedules.InverseTimeDecay(0.1, 20, 0.7, staircase=True),
        "cosine": schedules.CosineDecay(0.1, 150),
        "cosine_alpha": schedules.CosineDecay(0.1, 120, alpha=0.2),
        "cosine_warmup": schedules.CosineDecay(0.01, 120, alpha=0.05, warmup_target=0.2,
                                               warmup_steps=33),
        "restarts": schedules.CosineDecayRestarts(0.1, 20),
        "restarts_even": schedules.CosineDecayRestarts(0.1, 30, t_mul=1.0, m_mul=0.8, alpha=0.1),
        "restarts_slow": schedules.CosineDecayRestarts(0.1, 25, t_mul=1.5, m_mul=0.7),
    }


def optimizer_cases():
    """Learning rates so large that the weights change by as much as they are."""
    o = optimizers
    return {
        "sgd": o.SGD(0.1),
        "sgd_momentum": o.SGD(0.1, momentum=0.9),
        "sgd_nesterov": o.SGD(0.1, momentum=0.9, nesterov=True),
        "sgd_decay": o.SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.3, clipvalue=0.4),
        "sgd_plain_decay": o.SGD(0.1, weight_decay=0.3),
        "sgd_schedule": o.SGD(schedules.ExponentialDecay(0.2, 3, 0.5), momentum=0.5),
        "adam": o.Adam(0.1),
        "adam_amsgrad": o.Adam(0.1, beta_2=0.5, amsgrad=True),
        "adam_decay_clip": o.Adam(0.1, weight_decay=0.3, clipvalue=0.25, epsilon=1e-3),
        "adam_schedule": o.Adam(schedules.CosineDecay(0.05, 8, warmup_target=0.2, warmup_steps=3)),
        "adamw": o.AdamW(0.1),
        "adamw_amsgrad": o.AdamW(0.1, weight_decay=0.5, beta_2=0.5, amsgrad=True),
        "rmsprop": o.RMSprop(0.1),
        "rmsprop_momentum": o.RMSprop(0.05, rho=0.8, momentum=0.7),
        "rmsprop_centered": o.RMSprop(0.05, centered=True),
        "rmsprop_all": o.RMSprop(0.03, rho=0.8, momentum=0.7, centered=True, epsilon=1e-3,
                                 weight_decay=0.2),
        "adadelta": o.Adadelta(100.0),
        "adadelta_options": o.Adadelta(1.0, rho=0.7, epsilon=1e-2, weight_decay=0.1),
        "adagrad": o.Adagrad(0.2),
        "adagrad_options": o.Adagrad(0.2, initial_accumulator_value=0.5, epsilon=1e-2,
                                     clipvalue=0.5),
        "adamax": o.Adamax(0.1),
        "adamax_options": o.Adamax(0.1, beta_1=0.7, beta_2=0.6, epsilon=1e-2, weight_decay=0.2),
        "nadam": o.Nadam(0.1),
        "nadam_options": o.Nadam(0.1, beta_1=0.6, beta_2=0.8, epsilon=1e-2, weight_decay=0.2),
        "ftrl": o.Ftrl(0.3),
        "ftrl_options": o.Ftrl(0.3, learning_rate_power=-0.7, initial_accumulator_value=0.3,
                               l1_regularization_strength=0.2, l2_regularization_strength=0.1,
                               l2_shrinkage_regularization_strength=0.05, beta=0.4,
                               weight_decay=0.1),
        "lion": o.Lion(0.1),
        "lion_options": o.Lion(0.05, beta_1=0.7, beta_2=0.8, weight_decay=0.3, clipvalue=0.6),
        "schedule_free": o.ScheduleFreeAdamW(0.1),
        "schedule_free_options": o.ScheduleFreeAdamW(
            schedules.ExponentialDecay(0.2, 3, 0.5), beta_1=0.6, beta_2=0.8, epsilon=1e-2,
            warmup_steps=4, weight_decay=0.3, clipvalue=0.6),
        "schedule_free_accumulates": o.ScheduleFreeAdamW(0.1, gradient_accumulation_steps=3),
        "adam_average": o.Adam(0.1, use_ema=True, ema_momentum=0.8),
        "sgd_average_overwrites": o.SGD(0.1, use_ema=True, ema_momentum=0.7,
                                        ema_overwrite_frequency=3),
        "sgd_accumulates": o.SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.1,
                                 gradient_accumulation_steps=3),
        "adam_accumulates": o.Adam(schedules.ExponentialDecay(0.2, 3, 0.5), clipvalue=0.3,
                                   gradient_accumulation_steps=4),
        "sgd_average_accumulates": o.SGD(0.1, momentum=0.5, use_ema=True, ema_momentum=0.9,
                                         ema_overwrite_frequency=2,
                                         gradient_accumulation_steps=2),
    }


def optimizer_cases_of_two():
    o = optimizers
    return {
        "adam_clipnorm": o.Adam(0.1, clipnorm=2.0),
        "sgd_clipnorm": o.SGD(0.1, momentum=0.9, clipnorm=2.4),
        "sgd_global_clipnorm": o.SGD(0.1, momentum=0.9, global_clipnorm=3.3),
        "rmsprop_global_clipnorm": o.RMSprop(0.1, weight_decay=0.1, global_clipnorm=0.7),
        "adam_accumulates_clipnorm": o.Adam(0.1, clipnorm=1.2, gradient_accumulation_steps=2),
        "lamb": o.Lamb(0.1),
        "lamb_options": o.Lamb(0.05, beta_1=0.7, beta_2=0.8, epsilon=1e-2, weight_decay=0.4,
                               global_clipnorm=1.5),
        "lamb_accumulates": o.Lamb(0.1, weight_decay=0.2, gradient_accumulation_steps=3),
        "adamw_excludes": excluding(o.AdamW(0.1, weight_decay=0.5)),
        "lamb_excludes": excluding(o.Lamb(0.1, weight_decay=0.5)),
    }


def cases_that_keep_five():
    o = optimizers
    return {
        "adam_keeps_five": o.Adam(0.1, beta_2=0.5, amsgrad=True, use_ema=True, ema_momentum=0.8,
                                  ema_overwrite_frequency=3, gradient_accumulation_steps=2),
        "rmsprop_keeps_five": o.RMSprop(0.05, rho=0.8, momentum=0.7, centered=True, use_ema=True,
                                        ema_momentum=0.9, gradient_accumulation_steps=2),
    }


def adafactor_cases():
    o = optimizers
    return {
        "adafactor": o.Adafactor(0.5),
        "adafactor_options": o.Adafactor(0.2, beta_2_decay=-0.5, epsilon_1=1e-2, epsilon_2=0.7,
                                         clip_threshold=0.5, weight_decay=0.3, clipvalue=0.6),
        "adafactor_schedule": o.Adafactor(schedules.ExponentialDecay(0.9, 3, 0.5),
                                          relative_step=False, clipnorm=0.4),
        "adafactor_keeps_five": o.Adafactor(0.3, weight_decay=0.2, global_clipnorm=1.5,
                                            use_ema=True, ema_momentum=0.8,
                                            ema_overwrite_frequency=3,
                                            gradient_accumulation_steps=2),
    }


def muon_cases():
    o = optimizers
    return {
        "muon": o.Muon(0.1),
        "muon_options": o.Muon(0.2, adam_beta_1=0.7, adam_beta_2=0.8, adam_weight_decay=0.2,
                               epsilon=1e-2, weight_decay=0.3, exclude_layers=["^tal+"],
                               exclude_embeddings=False, muon_a=3.0, muon_b=-4.0, muon_c=1.5,
                               adam_lr_ratio=0.5, momentum=0.8, ns_steps=3, nesterov=False,
                               rms_rate=None, clipvalue=0.6),
        "muon_accumulates": o.Muon(schedules.ExponentialDecay(0.3, 3, 0.5), global_clipnorm=1.5,
                                   use_ema=True, ema_momentum=0.8, ema_overwrite_frequency=3,
                                   gradient_accumulation_steps=2),
        "muon_excludes": excluding(o.Muon(0.1, weight_decay=0.5, adam_weight_decay=0.4)),
    }


def excluding(optimizer):
    optimizer.exclude_from_weight_decay(var_names=EXCLUDED)
    return optimizer


def made_up(tensor):
    return 2 * uniform(tensor, SIZE) - 1


def rounded(values):
    return [float(f"{value:.{DIGITS}g}") for value in np.asarray(values, dtype=np.float64)]


def padded(slot, weight):
    values = np.zeros(0) if slot is None or slot.shape == () else np.asarray(slot).ravel()
    return np.pad(values, (0, np.asarray(weight).size - values.size))


def slots_of(optimizer, weights):
    own = {name: getattr(optimizer, attribute)
           for name, attribute in OWN_SLOTS.get(type(optimizer), {}).items()}
    of_row = {id(slot) for slots in own.values() for slot in slots}
    slots = {}
    for variable in optimizer.variables:
        if variable.shape != () and id(variable) not in of_row:
            values = np.asarray(variable).ravel()
            slots.setdefault(variable.name.split("_", 1)[1], []).append(values)
    for name, variables in own.items():
        slots[name] = [padded(*pair) for pair in zip(variables, weights)]
    return [[name, rounded(np.concatenate(parts))] for name, parts in slots.items()]


def train(optimizer, parts):
    sizes = [int(np.prod(shape)) for shape in parts.values()]
    cut = lambda values: [part.reshape(shape) for part, shape in
                          zip(np.split(values, np.cumsum(sizes)[:-1]), parts.values())]
    weights = [keras.Variable(part, dtype="float64", name=name)
               for name, part in zip(parts, cut(made_up(0)))]
    optimizer.build(weights)
    for step in range(STEPS):
        optimizer.apply(cut(made_up(1 + step)), weights)
    config = optimizers.serialize(optimizer)
    if getattr(optimizer, "_exclude_from_weight_decay_pattern", None):
        config["config"]["exclude_from_weight_decay"] = EXCLUDED  # which Keras keeps to itself
    made = {
        "config": config,
        "weights": rounded(np.concatenate([np.asarray(weight).ravel() for weight in weights])),
        "slots": slots_of(optimizer, weights),
    }
    if len(parts) == 1:
        return made
    if any(isinstance(shape, tuple) for shape in parts.values()):
        made = {"shapes": list(parts.values()), **made}
    return {"parts": [list(pair) for pair in zip(parts, sizes)], **made}


def sampled(schedule):
    return {
        "config": schedules.serialize(schedule),
        "rates": rounded([float(schedule(np.int64(step))) for step in SCHEDULE_STEPS]),
    }


def golden_file():
    keras.config.set_floatx("float64")
    return {
        "keras": keras.__version__,
        "size": SIZE,
        "steps": STEPS,
        "schedule_every": SCHEDULE_STEPS.step,
        "schedules": {name: sampled(schedule) for name, schedule in schedule_cases().items()},
        "optimizers": {
            **{name: train(each, {"w": SIZE}) for name, each in optimizer_cases().items()},
            **{name: train(each, PARTS) for name, each in optimizer_cases_of_two().items()},
            **{name: train(each, {"w": SIZE}) for name, each in cases_that_keep_five().items()},
            **{name: train(each, SHAPES) for name, each in adafactor_cases().items()},
            **{name: train(each, MATRICES) for name, each in muon_cases().items()},
        },
    }


if __name__ == "__main__":
    sys.exit(write_or_check(FILE, golden_file, (("}}, ", "}},\n"), ("]]}, ", "]]},\n"))))

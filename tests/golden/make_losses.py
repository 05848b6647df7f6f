"""Makes tests/golden/losses.json: what Keras' losses and metrics compute.

    python tests/golden/make_losses.py            writes the file
    python tests/golden/make_losses.py --check    compares it with what Keras computes now

Needs the packages of tests/golden/requirements.txt; `./dev golden` makes an environment for it. The
tensors follow the formula of make_golden.py, see `made`. For each loss: its class and
get_config(), the value of a batch (weighted too) and its gradient with respect to y_pred. For each
metric: its value over two batches. For losses and metrics of several outputs: all that compile()
makes of them for a batch, and the gradients of the outputs.
"""

import json
import math
import pathlib
import sys

from golden_file import write_or_check
from make_golden import uniform  # first: it chooses the backend, and float64

import jax
import keras
import numpy as np
from keras import losses

FILE = pathlib.Path(__file__).with_name("losses.json")
ROWS = 8
DIGITS = 8


def made(kind, tensor, shape):
    """The kinds that tests/nn/loss_golden_test.cc makes as well."""
    x = uniform(tensor, math.prod(shape)).reshape(shape)
    if kind == "centred":
        return 4 * x - 2
    if kind == "binary":
        return np.floor(2 * x)
    if kind == "signs":
        return 2 * np.floor(2 * x) - 1
    if kind == "one_hot":
        return (x == x.max(-1, keepdims=True)).astype(np.float64)
    if kind.startswith("classes:"):
        return np.floor(int(kind[8:]) * x)
    assert kind == "unit"
    return x


def loss_cases():
    """(loss, kind of y_true, kind of y_pred, shape of y_pred) by name."""
    found = {}
    row, image, one = (6,), (2, 3, 4), (1,)

    def case(name, loss, y_true, y_pred, shape=row):
        assert name not in found, name
        found[name] = (loss, y_true, y_pred, shape)

    for name in ("MeanSquaredError", "MeanAbsoluteError", "MeanAbsolutePercentageError",
                 "MeanSquaredLogarithmicError", "Huber", "LogCosh", "CosineSimilarity"):
        case(name, getattr(losses, name)(), "centred", "centred")
    case("MeanSquaredError_image", losses.MeanSquaredError(), "centred", "centred", image)
    case("MeanSquaredError_one", losses.MeanSquaredError(), "centred", "centred", one)
    case("Huber_delta", losses.Huber(delta=0.4), "centred", "centred", image)
    for name in ("Hinge", "SquaredHinge"):
        case(f"{name}_binary", getattr(losses, name)(), "binary", "centred")
        case(f"{name}_signs", getattr(losses, name)(), "signs", "centred")
    case("CategoricalHinge", losses.CategoricalHinge(), "one_hot", "centred")
    case("KLDivergence", losses.KLDivergence(), "unit", "unit")
    case("KLDivergence_image", losses.KLDivergence(), "one_hot", "unit", image)
    case("Poisson", losses.Poisson(), "unit", "unit")
    binary = {"": {}, "_logits": {"from_logits": True}, "_smooth": {"label_smoothing": 0.2},
              "_smooth_logits": {"label_smoothing": 0.2, "from_logits": True}}
    for ending, options in binary.items():
        y_pred = "centred" if "from_logits" in options else "unit"
        case(f"BinaryCrossentropy{ending}", losses.BinaryCrossentropy(**options), "binary", y_pred)
        case(f"BinaryFocalCrossentropy{ending}",
             losses.BinaryFocalCrossentropy(**options, gamma=1.5), "binary", y_pred)
        case(f"CategoricalCrossentropy{ending}", losses.CategoricalCrossentropy(**options),
             "one_hot", y_pred)
        case(f"CategoricalFocalCrossentropy{ending}",
             losses.CategoricalFocalCrossentropy(**options), "one_hot", y_pred)
    case("BinaryCrossentropy_one", losses.BinaryCrossentropy(), "binary", "unit", one)
    case("BinaryCrossentropy_saturated", losses.BinaryCrossentropy(), "binary", "binary")
    case("BinaryFocalCrossentropy_balanced",
         losses.BinaryFocalCrossentropy(apply_class_balancing=True, alpha=0.4), "binary", "unit")
    case("CategoricalCrossentropy_image", losses.CategoricalCrossentropy(), "one_hot", "unit",
         image)
    sparse = losses.SparseCategoricalCrossentropy
    case("SparseCategoricalCrossentropy", sparse(), "classes:6", "unit")
    case("SparseCategoricalCrossentropy_logits", sparse(from_logits=True), "classes:6", "centred")
    case("SparseCategoricalCrossentropy_image", sparse(), "classes:4", "unit", image)
    return found


def metric_cases():
    """(name, kind of y_true, kind of y_pred, shape of y_pred) by name of the case."""
    found = {}
    row, image, one, wide = (6,), (2, 3, 4), (1,), (12,)

    def case(name, y_true, y_pred, shape=row, ending=""):
        assert name + ending not in found, name
        found[name + ending] = (name, y_true, y_pred, shape)

    case("accuracy", "binary", "unit", one, "_binary")
    case("accuracy", "one_hot", "unit", row, "_categorical")
    case("accuracy", "classes:6", "unit", row, "_sparse")
    case("accuracy", "classes:4", "unit", image, "_sparse_image")
    case("accuracy", "one_hot", "binary", row, "_of_ties")
    case("binary_accuracy", "binary", "unit")
    case("categorical_accuracy", "one_hot", "unit", image)
    case("sparse_categorical_accuracy", "classes:6", "unit")
    case("top_k_categorical_accuracy", "one_hot", "unit", wide)
    case("sparse_top_k_categorical_accuracy", "classes:12", "unit", wide)
    case("precision", "binary", "unit")
    case("recall", "binary", "unit", one)
    case("root_mean_squared_error", "centred", "centred")
    case("cosine_similarity", "centred", "centred", image)
    for name in ("mean_squared_error", "mse", "mean_absolute_error",
                 "mean_absolute_percentage_error", "mean_squared_logarithmic_error", "mae"):
        case(name, "centred", "centred", image)
    for name in ("binary_crossentropy", "poisson", "kl_divergence"):
        case(name, "binary", "unit")
    for name in ("hinge", "squared_hinge", "categorical_hinge"):
        case(name, "binary", "centred")
    case("categorical_crossentropy", "one_hot", "unit")
    case("sparse_categorical_crossentropy", "classes:6", "unit")
    return found


def metric_object_cases():
    """(metric, kind of y_true, kind of y_pred, shape of y_pred) by name of the case."""
    m = keras.metrics
    row, image, wide = (6,), (2, 3, 4), (12,)
    return {
        "BinaryAccuracy_threshold": (m.BinaryAccuracy(threshold=0.7), "binary", "unit", row),
        "TopKCategoricalAccuracy_3": (m.TopKCategoricalAccuracy(k=3, name="top3"), "one_hot",
                                      "unit", wide),
        "SparseTopKCategoricalAccuracy_2": (m.SparseTopKCategoricalAccuracy(k=2), "classes:12",
                                            "unit", wide),
        "Precision_threshold": (m.Precision(thresholds=0.8), "binary", "unit", row),
        "Recall_threshold": (m.Recall(thresholds=[0.3]), "binary", "unit", row),
        "BinaryCrossentropy_options": (m.BinaryCrossentropy(from_logits=True, label_smoothing=0.1),
                                       "binary", "centred", row),
        "CategoricalCrossentropy_options": (
            m.CategoricalCrossentropy(from_logits=True, label_smoothing=0.2), "one_hot",
            "centred", row),
        "SparseCategoricalCrossentropy_logits": (
            m.SparseCategoricalCrossentropy(from_logits=True), "classes:6", "centred", row),
        "LogCoshError": (m.LogCoshError(), "centred", "centred", row),
        "CosineSimilarity": (m.CosineSimilarity(), "centred", "centred", row),
        "MeanAbsoluteError": (m.MeanAbsoluteError(name="off"), "centred", "centred", row),
        "Accuracy": (m.Accuracy(), "binary", "binary", row),
        "PearsonCorrelation": (m.PearsonCorrelation(), "centred", "centred", image),
        "ConcordanceCorrelation": (m.ConcordanceCorrelation(), "centred", "unit", row),
        **count_cases(m),
        **score_cases(m),
    }


def count_cases(m):
    row, image, one = (6,), (2, 3, 4), (1,)
    found = {}
    for name in ("TruePositives", "TrueNegatives", "FalsePositives", "FalseNegatives"):
        found[name] = (getattr(m, name)(thresholds=0.4), "binary", "unit", row)
    for kind in (m.Precision, m.Recall):
        name = kind.__name__
        found[f"{name}_class"] = (kind(class_id=2, name="of_2"), "binary", "unit", image)
        found[f"{name}_top"] = (kind(top_k=2), "one_hot", "unit", row)
        found[f"{name}_top_class"] = (kind(top_k=3, class_id=1), "one_hot", "binary", row)
    areas = {"": {}, "_pr": {"curve": "PR"}, "_gain": {"curve": "PRGAIN", "num_thresholds": 30},
             "_major": {"summation_method": "majoring"},
             "_minor": {"summation_method": "minoring", "curve": "PR", "num_thresholds": 11},
             "_own": {"thresholds": [0.7, 0.2, 0.3]}, "_even": {"thresholds": [0.25, 0.5, 0.75]}}
    for ending, options in areas.items():
        found[f"AUC{ending}"] = (m.AUC(**options), "binary", "unit", row)
    found["AUC_logits"] = (m.AUC(from_logits=True, num_thresholds=50), "binary", "centred", one)
    found["AUC_ends"] = (m.AUC(num_thresholds=5), "binary", "binary", row)
    found["AUC_labels"] = (m.AUC(multi_label=True, num_thresholds=40), "binary", "unit", row)
    label_weights = [1.0, 0.0, 2.0, 0.5, 1.0, 3.0]
    for ending, options in {"": {"multi_label": True, "num_thresholds": 40}, "_together": {},
                            "_own": {"thresholds": [0.7, 0.2, 0.3], "curve": "PR"}}.items():
        found[f"AUC_label_weights{ending}"] = (m.AUC(label_weights=label_weights, **options),
                                               "binary", "unit", row)
    for kind, key in ((m.SensitivityAtSpecificity, "specificity"), (m.PrecisionAtRecall, "recall"),
                      (m.SpecificityAtSensitivity, "sensitivity"),
                      (m.RecallAtPrecision, "precision")):
        name = kind.__name__
        found[name] = (kind(**{key: 0.6}), "binary", "unit", row)
        found[f"{name}_class"] = (kind(**{key: 0.5}, num_thresholds=9, class_id=1), "binary",
                                  "binary", row)
        found[f"{name}_alone"] = (kind(**{key: 0.3}, num_thresholds=1), "binary", "unit", one)
    return found


def score_cases(m):
    row, one = (6,), (1,)
    found = {}
    for average in ("micro", "macro", "weighted"):
        found[f"F1Score_{average}"] = (m.F1Score(average=average), "one_hot", "unit", row)
        found[f"FBetaScore_{average}"] = (
            m.FBetaScore(average=average, beta=2.0, threshold=0.4), "binary", "unit", row)
    found["R2Score"] = (m.R2Score(), "centred", "centred", row)
    found["R2Score_variance"] = (m.R2Score(class_aggregation="variance_weighted_average",
                                           num_regressors=3), "unit", "centred", row)
    found["R2Score_one"] = (m.R2Score(num_regressors=2), "centred", "unit", one)
    found["BinaryIoU"] = (m.BinaryIoU(), "binary", "unit", row)
    found["BinaryIoU_of_one"] = (m.BinaryIoU(target_class_ids=[1], threshold=0.3), "binary", "unit",
                                 row)
    return found


def tensors(y_true, y_pred, shape, number):
    """Of batch `number`."""
    target_shape = (*shape[:-1], 1) if y_true.startswith("classes:") else shape
    return (made(y_true, 3000 + number, (ROWS, *target_shape)),
            made(y_pred, 4000 + number, (ROWS, *shape)), target_shape)


def rounded(array):
    return [float(f"{value:.{DIGITS}g}") for value in np.asarray(array, np.float64).ravel()]


def config_of(loss):
    config = json.loads(json.dumps(loss.get_config()).replace("float64", "float32"))
    config.pop("fn", None)
    if isinstance(loss, losses.Huber):  # leaves its argument out
        config["delta"] = loss._fn_kwargs["delta"]
    return config


def golden_loss(loss, y_true, y_pred, shape):
    truth, prediction, target_shape = tensors(y_true, y_pred, shape, 0)
    weights = uniform(5000, ROWS)
    # Keras repeats a weight over the further axes of a row where it has that rank.
    weights = weights.reshape((ROWS,) + (1,) * (len(shape) - 1))
    value, gradient = jax.value_and_grad(lambda p: loss(truth, p))(prediction)
    return {
        "class_name": type(loss).__name__,
        "config": config_of(loss),
        "y_true": y_true,
        "y_pred": y_pred,
        "target_shape": list(target_shape),
        "shape": list(shape),
        "value": rounded(value)[0],
        "weighted": rounded(loss(truth, prediction, sample_weight=weights))[0],
        "gradient": rounded(gradient),
    }


def golden_metric(name, y_true, y_pred, shape):
    from keras.src.trainers.compile_utils import get_metric  # what compile(metrics=[name]) makes

    truth, prediction, target_shape = tensors(y_true, y_pred, shape, 0)
    metric = name if isinstance(name, keras.Metric) else get_metric(name, truth, prediction)
    value = metric_value(metric, y_true, y_pred, shape)
    golden = {"y_true": y_true, "y_pred": y_pred, "target_shape": list(target_shape),
              "shape": list(shape), "value": value}
    if metric is not name:
        return {"name": name, **golden}
    config = {key: rounded(value) if hasattr(value, "shape") else value
              for key, value in metric.get_config().items()}
    made = {"class_name": type(metric).__name__, "config": {**config, "dtype": "float32"}}
    if made["class_name"] == "BinaryIoU":  # cuts weights to whole numbers
        return {"name": made, **golden}
    metric.reset_state()
    weighted = metric_value(metric, y_true, y_pred, shape, uniform(5000, ROWS))
    return {"name": made, **golden, "weighted": weighted}


def metric_value(metric, y_true, y_pred, shape, weights=None):
    """Over two batches."""
    if weights is not None and len(shape) > 1:
        weights = weights.reshape((ROWS,) + (1,) * (len(shape) - 1))
    for number in (0, 1):
        metric.update_state(*tensors(y_true, y_pred, shape, number)[:2], sample_weight=weights)
    return rounded(metric.result())[0]


def objective_cases():
    """(loss, loss_weights, metrics, weighted_metrics, outputs) by name.

    Outputs: (kind of y_true, kind of y_pred, shape) by name.
    """
    outputs = {"b": ("classes:6", "unit", (6,)), "a": ("centred", "centred", (5,)),
               "c": ("binary", "unit", (1,))}
    losses_of = {"b": "sparse_categorical_crossentropy", "a": losses.Huber(delta=0.5),
                 "c": "binary_crossentropy"}
    numbers = {name: outputs[name] for name in ("a", "c")}
    return {
        "each_its_own": (losses_of, {"b": 0.5, "a": 2.0, "c": 1.0},
                         {"b": ["accuracy"], "c": ["accuracy", "precision"]},
                         {"b": ["accuracy"], "a": ["mae", "root_mean_squared_error"]}, outputs),
        "in_lists": (list(losses_of.values()), [0.3, 1.0, 0.0],
                     [["accuracy", "sparse_categorical_crossentropy"], None, "mae"],
                     [None, None, ["recall", "precision"]], outputs),
        "one_for_all": ("mse", None, ["mae", ["mae"]], None, numbers),
        "counts": ("mse", None, {"d": ["precision"]}, {"d": ["precision", "recall"]},
                   {"d": ("binary", "unit", (6,)), "c": outputs["c"]}),
        "one_has_none": ([None, "mse"], None, [["mae"], None], None, numbers),
    }


def objective_loss(case, truth, predictions, weights):
    """The loss, and what it tracks of each output, of a batch."""
    from keras.src.trainers.compile_utils import CompileLoss

    loss, loss_weights, _, _, outputs = case
    compiled = CompileLoss(loss, loss_weights, output_names=list(outputs))
    value = compiled(truth, predictions, sample_weight=weights)
    return value, compiled.metrics


def objective_metrics(case, truth, predictions, weights):
    from keras.src.trainers.compile_utils import CompileMetrics

    _, _, metrics, weighted_metrics, outputs = case
    compiled = CompileMetrics(metrics, weighted_metrics, output_names=list(outputs))
    compiled.update_state(truth, predictions, sample_weight=weights)
    return compiled.result()


def golden_objective(case):
    loss, loss_weights, metrics, weighted_metrics, outputs = case
    made_up = [tensors(*outputs[name], number) for number, name in enumerate(outputs)]
    truth = [tensor for tensor, _, _ in made_up]
    predictions = [tensor for _, tensor, _ in made_up]
    golden = {"outputs": [
        {"name": name, "y_true": outputs[name][0], "y_pred": outputs[name][1],
         "shape": list(outputs[name][2]), "target_shape": list(target_shape)}
        for name, (_, _, target_shape) in zip(outputs, made_up)]}
    golden["options"] = {"loss": config_of_any(loss), "loss_weights": loss_weights,
                         "metrics": metrics, "weighted_metrics": weighted_metrics}
    for key, weights in (("values", None), ("weighted", uniform(5000, ROWS))):
        value, tracked = objective_loss(case, truth, predictions, weights)
        golden[key] = {"loss": rounded(value)[0]}
        for metric in tracked:
            golden[key][metric.name] = rounded(metric.result())[0]
        for name, metric in objective_metrics(case, truth, predictions, weights).items():
            golden[key][name] = rounded(metric)[0]
    gradients = jax.grad(lambda p: objective_loss(case, truth, p, None)[0])(predictions)
    golden["gradients"] = [rounded(gradient) for gradient in gradients]
    return golden


def config_of_any(loss):
    if isinstance(loss, dict):
        return {name: config_of_any(one) for name, one in loss.items()}
    if isinstance(loss, list):
        return [config_of_any(one) for one in loss]
    if not isinstance(loss, losses.Loss):
        return loss
    return {"class_name": type(loss).__name__, "config": config_of(loss)}


def golden_file():
    keras.config.set_floatx("float64")
    return {
        "rows": ROWS,
        "keras": keras.__version__,
        "losses": {name: golden_loss(*case) for name, case in loss_cases().items()},
        "metrics": {name: golden_metric(*case) for name, case in
                    {**metric_cases(), **metric_object_cases()}.items()},
        "objectives": {name: golden_objective(case) for name, case in objective_cases().items()},
    }


if __name__ == "__main__":
    sys.exit(write_or_check(FILE, golden_file))

#include "cuda/conv_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "cuda/conv_graph.h"
#include "host/core/digest.h"

namespace lockstep {
// What the engine of a candidate says of itself.
struct ConvEngine {
  int64_t index = -1;
  std::vector<cudnnBackendNumericalNote_t> notes;
  std::vector<cudnnBackendBehaviorNote_t> behaviors;
  std::vector<std::pair<int64_t, int64_t>> knobs;  // type, value

  bool has(cudnnBackendNumericalNote_t note) const {
    return std::find(notes.begin(), notes.end(), note) != notes.end();
  }
  bool has(cudnnBackendBehaviorNote_t note) const {
    return std::find(behaviors.begin(), behaviors.end(), note) != behaviors.end();
  }
};

namespace {

constexpr int64_t kMaxNotes = 32;  // of a kind; newer versions know more than our header
constexpr int64_t kMaxKnobs = 64;

// Part of every key of a kept choice: another number where other engines would be chosen.
constexpr int kChoiceRule = 1;

Result<std::vector<std::pair<int64_t, int64_t>>> read_knobs(const CudnnDescriptor& config) {
  LOCKSTEP_ASSIGN(
      std::vector<CudnnDescriptor> choices,
      config.descriptors(CUDNN_ATTR_ENGINECFG_KNOB_CHOICES, "CUDNN_ATTR_ENGINECFG_KNOB_CHOICES",
                         CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR, kMaxKnobs));
  std::vector<std::pair<int64_t, int64_t>> knobs;
  for (const CudnnDescriptor& choice : choices) {
    cudnnBackendKnobType_t type{};
    int64_t value = 0;
    LOCKSTEP_RETURN_IF_ERROR(choice.get(CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE,
                                        "CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE", CUDNN_TYPE_KNOB_TYPE, 1,
                                        &type));
    LOCKSTEP_RETURN_IF_ERROR(choice.get(CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE,
                                        "CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE", CUDNN_TYPE_INT64, 1,
                                        &value));
    knobs.emplace_back(static_cast<int64_t>(type), value);
  }
  return knobs;
}

Result<ConvEngine> read_engine(const CudnnDescriptor& config) {
  LOCKSTEP_ASSIGN(std::vector<CudnnDescriptor> engines,
                  config.descriptors(CUDNN_ATTR_ENGINECFG_ENGINE, "CUDNN_ATTR_ENGINECFG_ENGINE",
                                     CUDNN_BACKEND_ENGINE_DESCRIPTOR));
  if (engines.size() != 1) return Error{"a configuration without an engine"};
  const CudnnDescriptor& source = engines[0];
  ConvEngine engine;
  LOCKSTEP_RETURN_IF_ERROR(source.get(CUDNN_ATTR_ENGINE_GLOBAL_INDEX,
                                      "CUDNN_ATTR_ENGINE_GLOBAL_INDEX", CUDNN_TYPE_INT64, 1,
                                      &engine.index));
  engine.notes.resize(kMaxNotes);
  LOCKSTEP_ASSIGN(int64_t count,
                  source.get(CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, "CUDNN_ATTR_ENGINE_NUMERICAL_NOTE",
                             CUDNN_TYPE_NUMERICAL_NOTE, kMaxNotes, engine.notes.data()));
  engine.notes.resize(static_cast<size_t>(count));
  engine.behaviors.resize(kMaxNotes);
  LOCKSTEP_ASSIGN(count,
                  source.get(CUDNN_ATTR_ENGINE_BEHAVIOR_NOTE, "CUDNN_ATTR_ENGINE_BEHAVIOR_NOTE",
                             CUDNN_TYPE_BEHAVIOR_NOTE, kMaxNotes, engine.behaviors.data()));
  engine.behaviors.resize(static_cast<size_t>(count));
  LOCKSTEP_ASSIGN(engine.knobs, read_knobs(config));
  return engine;
}

// Why an engine is refused whatever it would compute; "" if it isn't.
const char* refusal(const ConvEngine& engine, CudaMath math) {
  if (engine.has(CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC)) return "nondeterministic";
  if (engine.has(CUDNN_NUMERICAL_NOTE_TENSOR_CORE) && math == CudaMath::fp32) {
    return "tensor cores";
  }
  if (engine.has(CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS)) return "rounds its inputs";
  if (engine.has(CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION)) {
    return "sums in reduced precision";
  }
  // Its code, so its bits, would depend on the version of NVRTC and on the driver.
  if (engine.has(CUDNN_BEHAVIOR_NOTE_RUNTIME_COMPILATION)) return "compiled at run time";
  return "";
}

// Whether its sums are of transformed values, which cancel: larger errors than the plain sums have.
bool transforms(const ConvEngine& engine) {
  return engine.has(CUDNN_NUMERICAL_NOTE_FFT) || engine.has(CUDNN_NUMERICAL_NOTE_WINOGRAD) ||
         engine.has(CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_4x4) ||
         engine.has(CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_6x6) ||
         engine.has(CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_13x13);
}

std::string knobs_text(const ConvEngine& engine) {
  if (engine.knobs.empty()) return "no knobs";
  std::string text = "knobs";
  for (const auto& [type, value] : engine.knobs) text += fmt::format(" {}={}", type, value);
  return text;
}

std::string notes_text(const ConvEngine& engine) {
  static constexpr std::array<const char*, CUDNN_NUMERICAL_NOTE_TYPE_COUNT> kNames = {
      "tensor core", "down-converts", "reduced precision", "FFT",         "nondeterministic",
      "Winograd",    "Winograd 4x4",  "Winograd 6x6",      "Winograd 13", "strict NaN"};
  std::string text;
  for (const cudnnBackendNumericalNote_t note : engine.notes) {
    const auto number = static_cast<size_t>(note);
    if (!text.empty()) text += ", ";
    text += number < kNames.size() ? kNames[number] : fmt::format("note {}", number);
  }
  return text.empty() ? "no notes" : text;
}

}  // namespace

// Looks for the plan of one graph.
class ConvPlanSearch {
 public:
  ConvPlanSearch(const CudnnTarget& target, const Conv2dOp& op, int64_t rows,
                 const ConvPlanOptions& options)
      : target_(target), op_(op), rows_(rows), options_(options) {}

  // The plan of a choice that a search made once.
  Result<ConvPlan> remake(const PlanChoice& choice) {
    LOCKSTEP_RETURN_IF_ERROR(begin({choice.fuses_bias, choice.fuses_activation}));
    LOCKSTEP_ASSIGN(CudnnDescriptor config, make_config(choice));
    LOCKSTEP_ASSIGN(ConvEngine engine, read_engine(config));
    if (const char* reason = refusal(engine, options_.math); *reason != '\0') return Error{reason};
    Candidate candidate{std::move(config), std::move(engine), choice.place};
    LOCKSTEP_RETURN_IF_ERROR(make_plan(candidate));
    if (plan_.choice() != choice) return Error{"cuDNN makes another plan of it"};
    return std::move(plan_);
  }

  Result<ConvPlan> search(const ConvFusion& fusion) {
    LOCKSTEP_RETURN_IF_ERROR(begin(fusion));
    for (const Mode& mode : kModes) {
      LOCKSTEP_ASSIGN(bool found, try_mode(mode));
      if (found) return std::move(plan_);
    }
    // Better a plain convolution and a kernel of ours than a transform with all of it in one.
    if (!fusion.bias && !fusion.relu) {
      for (Candidate& candidate : reserve_) {
        if (try_candidate(candidate)) return std::move(plan_);
      }
    }
    return Error{failure_text()};
  }

 private:
  Status begin(const ConvFusion& fusion) {
    fusion_ = fusion;
    auto graph = build_conv_graph(target_, op_, rows_, options_, fusion);
    if (!graph) return Error{describe_conv_graph(op_, rows_) + ": " + graph.error().message};
    graph_ = std::move(graph).value();
    return {};
  }

  struct Mode {
    cudnnBackendHeurMode_t mode;
    const char* name;
  };
  static constexpr std::array<Mode, 3> kModes = {
      {{CUDNN_HEUR_MODE_A, "A"}, {CUDNN_HEUR_MODE_B, "B"}, {CUDNN_HEUR_MODE_FALLBACK, "fallback"}}};

  struct Candidate {
    CudnnDescriptor config;
    ConvEngine engine;
    std::string place;  // "heuristic A, 2 of 5"
  };

  // Whether the mode's list has a plan that qualifies, which is then in plan_.
  Result<bool> try_mode(const Mode& mode) {
    auto configs = list_configs(mode.mode);
    if (!configs) {
      refuse(fmt::format("heuristic {} has nothing: {}", mode.name, configs.error().message));
      return false;
    }
    const size_t count = configs->size();
    for (size_t i = 0; i < count; ++i) {
      LOCKSTEP_ASSIGN(ConvEngine engine, read_engine((*configs)[i]));
      if (const char* reason = refusal(engine, options_.math); *reason != '\0') {
        refuse(reason);
        continue;
      }
      Candidate candidate{std::move((*configs)[i]), std::move(engine),
                          fmt::format("heuristic {}, {} of {}", mode.name, i + 1, count)};
      if (transforms(candidate.engine)) {
        refuse("FFT or Winograd");
        reserve_.push_back(std::move(candidate));
      } else if (try_candidate(candidate)) {
        return true;
      }
    }
    return false;
  }

  Result<std::vector<CudnnDescriptor>> list_configs(cudnnBackendHeurMode_t mode) const {
    LOCKSTEP_ASSIGN(CudnnDescriptor heuristic,
                    CudnnDescriptor::create(target_.api(), CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR));
    cudnnBackendDescriptor_t graph = graph_.back().get();
    LOCKSTEP_CUDNN_SET(heuristic, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH,
                       CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &graph);
    LOCKSTEP_CUDNN_SET(heuristic, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
    if (target_.properties() != nullptr) {
      cudnnBackendDescriptor_t properties = target_.properties()->get();
      LOCKSTEP_CUDNN_SET(heuristic, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, CUDNN_TYPE_BACKEND_DESCRIPTOR,
                         1, &properties);
    }
    LOCKSTEP_RETURN_IF_ERROR(heuristic.finalize("heuristic"));
    return heuristic.descriptors(CUDNN_ATTR_ENGINEHEUR_RESULTS, "CUDNN_ATTR_ENGINEHEUR_RESULTS",
                                 CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
  }

  // The engine of the graph with its knobs set, without a heuristic.
  Result<CudnnDescriptor> make_config(const PlanChoice& choice) {
    LOCKSTEP_ASSIGN(CudnnDescriptor engine,
                    CudnnDescriptor::create(target_.api(), CUDNN_BACKEND_ENGINE_DESCRIPTOR));
    cudnnBackendDescriptor_t graph = graph_.back().get();
    LOCKSTEP_CUDNN_SET(engine, CUDNN_ATTR_ENGINE_OPERATION_GRAPH, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1,
                       &graph);
    LOCKSTEP_CUDNN_SET(engine, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1, &choice.engine);
    if (target_.properties() != nullptr) {
      cudnnBackendDescriptor_t properties = target_.properties()->get();
      LOCKSTEP_CUDNN_SET(engine, CUDNN_ATTR_ENGINE_DEVICEPROP, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1,
                         &properties);
    }
    LOCKSTEP_RETURN_IF_ERROR(engine.finalize("engine"));
    std::vector<CudnnDescriptor> knobs;
    std::vector<cudnnBackendDescriptor_t> views;
    for (const auto& [number, value] : choice.knobs) {
      LOCKSTEP_ASSIGN(CudnnDescriptor knob,
                      CudnnDescriptor::create(target_.api(), CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR));
      const auto type = static_cast<cudnnBackendKnobType_t>(number);
      LOCKSTEP_CUDNN_SET(knob, CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, CUDNN_TYPE_KNOB_TYPE, 1, &type);
      LOCKSTEP_CUDNN_SET(knob, CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, CUDNN_TYPE_INT64, 1, &value);
      LOCKSTEP_RETURN_IF_ERROR(knob.finalize("knob"));
      views.push_back(knob.get());
      knobs.push_back(std::move(knob));
    }
    LOCKSTEP_ASSIGN(CudnnDescriptor config,
                    CudnnDescriptor::create(target_.api(), CUDNN_BACKEND_ENGINECFG_DESCRIPTOR));
    cudnnBackendDescriptor_t made = engine.get();
    LOCKSTEP_CUDNN_SET(config, CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1,
                       &made);
    if (!views.empty()) {
      LOCKSTEP_CUDNN_SET(config, CUDNN_ATTR_ENGINECFG_KNOB_CHOICES, CUDNN_TYPE_BACKEND_DESCRIPTOR,
                         std::ssize(views), views.data());
    }
    LOCKSTEP_RETURN_IF_ERROR(config.finalize("engine configuration"));
    parts_.push_back(std::move(engine));
    for (CudnnDescriptor& knob : knobs) parts_.push_back(std::move(knob));
    return config;
  }

  bool try_candidate(Candidate& candidate) {
    auto made = make_plan(candidate);
    if (!made) refuse(made.error().message);
    return made.ok();
  }

  Status make_plan(Candidate& candidate) {
    LOCKSTEP_ASSIGN(
        CudnnDescriptor plan,
        CudnnDescriptor::create(target_.api(), CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR));
    cudnnBackendDescriptor_t config = candidate.config.get();
    LOCKSTEP_CUDNN_SET(plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, CUDNN_TYPE_BACKEND_DESCRIPTOR,
                       1, &config);
    if (cudnnHandle_t handle = target_.handle(); handle != nullptr) {
      LOCKSTEP_CUDNN_SET(plan, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, &handle);
    } else {
      cudnnBackendDescriptor_t properties = target_.properties()->get();
      LOCKSTEP_CUDNN_SET(plan, CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, CUDNN_TYPE_BACKEND_DESCRIPTOR,
                         1, &properties);
    }
    LOCKSTEP_RETURN_IF_ERROR(plan.finalize("plan"));
    int64_t workspace = 0;
    LOCKSTEP_RETURN_IF_ERROR(plan.get(CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE,
                                      "CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE", CUDNN_TYPE_INT64,
                                      1, &workspace));
    if (workspace > options_.workspace_limit_bytes) return Error{"workspace over the limit"};
    fill_plan(candidate, std::move(plan), workspace);
    return {};
  }

  void fill_plan(Candidate& candidate, CudnnDescriptor plan, int64_t workspace) {
    plan_.pass_ = op_.pass;
    plan_.choice_ = {
        candidate.engine.index, candidate.engine.knobs, fusion_.bias, fusion_.relu, workspace,
        candidate.place};
    plan_.description_ = fmt::format(
        "{}: {}engine {} ({}; {}; {}), workspace {} bytes", describe_conv_graph(op_, rows_),
        fusion_text(), candidate.engine.index, candidate.place, knobs_text(candidate.engine),
        notes_text(candidate.engine), workspace);
    plan_.api_ = target_.api();
    plan_.graph_ = std::move(graph_);
    for (CudnnDescriptor& part : parts_) plan_.graph_.push_back(std::move(part));
    plan_.config_ = std::move(candidate.config);
    plan_.plan_ = std::move(plan);
  }

  const char* fusion_text() const {
    if (fusion_.bias) return fusion_.relu ? "bias and relu fused, " : "bias fused, ";
    return fusion_.relu ? "relu fused, " : "";
  }

  void refuse(const std::string& reason) {
    for (auto& [known, count] : refused_) {
      if (known == reason) {
        ++count;
        return;
      }
    }
    refused_.emplace_back(reason, 1);
  }

  std::string failure_text() const {
    std::string text =
        fmt::format("{} has no plan for the {} with a workspace of at most {} bytes ({}):",
                    target_.api()->version, describe_conv_graph(op_, rows_),
                    options_.workspace_limit_bytes, math_name(options_.math));
    if (refused_.empty()) text += " no candidates";
    for (const auto& [reason, count] : refused_) text += fmt::format(" {} x {};", count, reason);
    return text;
  }

  const CudnnTarget& target_;
  const Conv2dOp& op_;
  const int64_t rows_;
  const ConvPlanOptions& options_;
  ConvFusion fusion_;
  std::vector<CudnnDescriptor> graph_;
  std::vector<CudnnDescriptor> parts_;  // of a configuration made here
  std::vector<Candidate> reserve_;
  std::vector<std::pair<std::string, int>> refused_;  // reason, how often
  ConvPlan plan_;
};

Result<CudnnTarget> CudnnTarget::description(std::shared_ptr<const CudnnApi> api,
                                             const std::string& json) {
  LOCKSTEP_ASSIGN(CudnnDescriptor properties,
                  CudnnDescriptor::create(api, CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR));
  LOCKSTEP_CUDNN_SET(properties, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR,
                     static_cast<int64_t>(json.size()), json.data());
  LOCKSTEP_RETURN_IF_ERROR(properties.finalize("device properties"));
  return CudnnTarget(std::move(api), nullptr,
                     std::make_shared<const CudnnDescriptor>(std::move(properties)));
}

Result<std::string> CudnnTarget::device_json() const {
  constexpr auto kJson = CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION;
  constexpr const char* kJsonName = "CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION";
  if (handle_ == nullptr) return properties_->text(kJson, kJsonName);
  LOCKSTEP_ASSIGN(CudnnDescriptor properties,
                  CudnnDescriptor::create(api_, CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR));
  LOCKSTEP_CUDNN_SET(properties, CUDNN_ATTR_DEVICEPROP_HANDLE, CUDNN_TYPE_HANDLE, 1, &handle_);
  LOCKSTEP_RETURN_IF_ERROR(properties.finalize("device properties"));
  return properties.text(kJson, kJsonName);
}

int64_t alignment_of(int64_t offset, int64_t limit) {
  int64_t alignment = sizeof(float);
  while (alignment < limit && offset * int64_t{sizeof(float)} % (alignment * 2) == 0) {
    alignment *= 2;
  }
  return alignment;
}

namespace {

Result<ConvPlan> search_plan(const CudnnTarget& target, const Conv2dOp& op, int64_t rows,
                             const ConvPlanOptions& options) {
  if (op.pass == Pass::forward && options.math != CudaMath::bf16) {
    const ConvFusion fusion{op.bias_offset >= 0, op.activation == Activation::relu};
    if (fusion.bias || fusion.relu) {
      auto fused = ConvPlanSearch(target, op, rows, options).search(fusion);
      if (fused) return fused;
    }
  }
  return ConvPlanSearch(target, op, rows, options).search({});
}

// All that a choice is a function of.
Result<std::string> choice_key(const CudnnTarget& target, const Conv2dOp& op, int64_t rows,
                               const ConvPlanOptions& options) {
  LOCKSTEP_ASSIGN(const std::string device, target.device_json());
  return fmt::format(
      "Lockstep {} rule {}, {}, device {}; {}; dilation {}x{}, groups {}, bias {}, relu {}; {}, "
      "workspace {}, aligned to {} {} {} {}",
      LOCKSTEP_VERSION, kChoiceRule, target.api()->version, sha256_hex(device),
      describe_conv_graph(op, rows), op.dilation_height, op.dilation_width, op.groups,
      op.bias_offset >= 0, op.activation == Activation::relu, math_name(options.math),
      options.workspace_limit_bytes, options.x_alignment_bytes, options.y_alignment_bytes,
      options.kernel_alignment_bytes, options.bias_alignment_bytes);
}

}  // namespace

Result<ConvPlan> ConvPlan::create(const CudnnTarget& target, const Conv2dOp& op, int64_t rows,
                                  const ConvPlanOptions& options, PlanStore* store) {
  LOCKSTEP_RETURN_IF_ERROR(check_conv_shapes(op, rows));
  if (store == nullptr || !store->is_on()) return search_plan(target, op, rows, options);
  LOCKSTEP_ASSIGN(const std::string key, choice_key(target, op, rows, options));
  if (const auto choice = store->find(key)) {
    auto kept = ConvPlanSearch(target, op, rows, options).remake(*choice);
    if (kept) return kept;
    store->refuse(key, kept.error().message);
  }
  auto plan = search_plan(target, op, rows, options);
  if (plan) store->keep(key, plan->choice());
  return plan;
}

Result<std::string> ConvPlan::json() const {
  return plan_.text(CUDNN_ATTR_EXECUTION_PLAN_JSON_REPRESENTATION,
                    "CUDNN_ATTR_EXECUTION_PLAN_JSON_REPRESENTATION");
}

Status ConvPlan::run(cudnnHandle_t handle, const ConvBuffers& buffers, void* workspace) const {
  std::array<int64_t, 4> uids{};
  std::array<const void*, 4> pointers{};
  int64_t count = 0;
  const auto add = [&](ConvUid uid, const void* pointer) {
    uids[static_cast<size_t>(count)] = uid;
    pointers[static_cast<size_t>(count++)] = pointer;
  };
  add(kX, pass_ == Pass::data_gradient ? buffers.out : buffers.x);
  add(kKernel, pass_ == Pass::weight_gradient ? buffers.out : buffers.kernel);
  add(kY, pass_ == Pass::forward ? buffers.out : buffers.dy);
  if (fuses_bias()) add(kBias, buffers.bias);
  LOCKSTEP_ASSIGN(CudnnDescriptor pack,
                  CudnnDescriptor::create(api_, CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR));
  LOCKSTEP_CUDNN_SET(pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, count,
                     uids.data());
  LOCKSTEP_CUDNN_SET(pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, count,
                     pointers.data());
  LOCKSTEP_CUDNN_SET(pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &workspace);
  LOCKSTEP_RETURN_IF_ERROR(pack.finalize("variant pack"));
  const cudnnStatus_t status = api_->backend_execute(handle, plan_.get(), pack.get());
  if (status == CUDNN_STATUS_SUCCESS) return {};
  return cudnn_status(*api_, status, "cudnnBackendExecute(" + description_ + ")");
}

}  // namespace lockstep

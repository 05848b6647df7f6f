#include "tests/sim/toy_model.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "host/core/check.h"
#include "host/core/digest.h"
#include "host/core/planted.h"
#include "host/core/rng.h"
#include "host/job/callbacks.h"
#include "host/reduce/layout.h"

namespace lockstep::sim {
namespace {

template <class T>
void put(std::string* bytes, const T& value) {
  bytes->append(reinterpret_cast<const char*>(&value), sizeof value);
}

template <class T>
T take(const std::string& bytes, size_t* at) {
  T value;
  LOCKSTEP_CHECK(*at + sizeof value <= bytes.size());
  std::memcpy(&value, bytes.data() + *at, sizeof value);
  *at += sizeof value;
  return value;
}

constexpr const char* kEndsEarly = "{\"ends\": \"early\"}";  // a job

// In (-1, 1).
float signed_uniform(uint64_t bits) {
  return static_cast<float>(static_cast<int64_t>(mix64(bits) >> 40) - (1 << 23)) *
         (1.0f / static_cast<float>(1 << 23));
}

// Planted bugs do not reach into its life.
class PlantedPause {
 public:
#ifdef LOCKSTEP_PLANTED_BUGS
  PlantedPause() : saved_(planted_bug.exchange(Bug::none)) {}
  ~PlantedPause() { planted_bug = saved_; }
  PlantedPause(const PlantedPause&) = delete;

 private:
  const Bug saved_;
#else
  PlantedPause() {}
#endif
};

}  // namespace

std::string ToyState::bytes() const {
  std::string result;
  put(&result, step);
  for (const double sum : sums) put(&result, sum);
  put(&result, static_cast<int64_t>(weights.size()));
  for (const float value : weights) put(&result, value);
  for (const float value : momentum) put(&result, value);
  return result;
}

ToyState ToyState::from_bytes(const std::string& bytes) {
  ToyState state;
  size_t at = 0;
  state.step = take<int64_t>(bytes, &at);
  for (double& sum : state.sums) sum = take<double>(bytes, &at);
  const auto count = take<int64_t>(bytes, &at);
  for (int64_t i = 0; i < count; ++i) state.weights.push_back(take<float>(bytes, &at));
  for (int64_t i = 0; i < count; ++i) state.momentum.push_back(take<float>(bytes, &at));
  return state;
}

uint64_t ToyState::digest() const {
  const std::string all = bytes();
  return xxh3(all.data(), all.size()) | 1;  // 0 says: not computed
}

std::optional<std::vector<float>> sum_in_tree(const std::vector<Piece>& pieces,
                                              const Subtree& target) {
  bool any = false;
  for (const Piece& piece : pieces) {
    if (piece.subtree == target) return piece.values;
    any = any || target.contains(piece.subtree);
  }
  if (!any) return std::nullopt;
  LOCKSTEP_CHECK(target.level > 0);
  if (planted(Bug::sum_by_arrival) || planted(Bug::tree_from_zero)) {
    std::optional<std::vector<float>> sum;
    for (const Piece& piece : pieces) {
      if (!target.contains(piece.subtree)) continue;
      if (!sum && planted(Bug::tree_from_zero)) sum.emplace(piece.values.size(), 0.0f);
      if (!sum) {
        sum = piece.values;
        continue;
      }
      for (size_t i = 0; i < sum->size(); ++i) (*sum)[i] += piece.values[i];
    }
    if (planted(Bug::sum_by_arrival)) return sum;
  }
  const Subtree left_child{target.first, target.level - 1};
  const Subtree right_child{left_child.end(), target.level - 1};
  auto left = sum_in_tree(pieces, left_child);
  auto right = sum_in_tree(pieces, right_child);
  if (planted(Bug::tree_from_zero)) {
    const size_t size = left ? left->size() : right->size();
    if (!left) left.emplace(size, 0.0f);
    if (!right) right.emplace(size, 0.0f);
  }
  if (!left) return right;
  if (!right) return left;
  for (size_t i = 0; i < left->size(); ++i) (*left)[i] += (*right)[i];
  return left;
}

int ToyModel::slice_end(int slice) const {
  return slice == facts_.slices - 1 ? flat_size() : (slice + 1) * kWidth;
}

ToyState ToyModel::initial_state() const {
  ToyState state;
  for (int i = 0; i < facts_.slices * kWidth; ++i) {
    state.weights.push_back(signed_uniform(derive_key(seed_, 1, static_cast<uint64_t>(i))));
    state.momentum.push_back(-0.0f);
  }
  return state;
}

int ToyModel::rows(int64_t step, int partition) const {
  const int64_t rows = facts_.rows_of_step(step);
  return static_cast<int>(partition_begin(rows, facts_.partitions, partition + 1) -
                          partition_begin(rows, facts_.partitions, partition));
}

float ToyModel::dropout(int64_t epoch, int64_t position, int weight, int local_row) const {
  const auto row = static_cast<uint64_t>(planted(Bug::dropout_by_local_row) ? local_row : position);
  return signed_uniform(derive_key(seed_ + 7, static_cast<uint64_t>(epoch) << 32 | row,
                                   static_cast<uint64_t>(weight))) < 0.5f
             ? 1.5f
             : 0.0f;
}

std::vector<float> ToyModel::gradient(const ToyState& state, int partition, int local_row) const {
  const int64_t step = state.step;
  const int64_t epoch = (step + facts_.first_batch) / facts_.batches_per_pass();
  const int64_t batch_begin =
      (step + facts_.first_batch) % facts_.batches_per_pass() * facts_.batch_size;
  const int64_t begin =
      partition_begin(facts_.rows_of_step(step), facts_.partitions, partition) + batch_begin;
  std::vector<float> flat(static_cast<size_t>(flat_size()), -0.0f);
  const int weights = facts_.slices * kWidth;
  for (int64_t position = begin; position < begin + rows(step, partition); ++position) {
    const uint64_t key =
        derive_key(seed_, static_cast<uint64_t>(epoch) + 2, static_cast<uint64_t>(position));
    float output = 0;
    for (int i = 0; i < weights; ++i) {
      const float x = signed_uniform(key + static_cast<uint64_t>(i));
      output += x * state.weights[static_cast<size_t>(i)];
      if (i == 0) continue;  // its gradient is -0 for ever
      const auto power = static_cast<int>(mix64(key ^ static_cast<uint64_t>(i)) % 13) - 6;
      const float kept = dropout(epoch, position, i, local_row);
      flat[static_cast<size_t>(i)] +=
          std::ldexp(x, power) * kept + state.weights[static_cast<size_t>(i)] * x * 0.25f;
    }
    flat[static_cast<size_t>(weights)] += output * output + 0.1f;
    flat[static_cast<size_t>(weights) + 1] += output > 0 ? 1.0f : 0.0f;
    flat[static_cast<size_t>(weights) + 2] += output * 0.3f;
    ++local_row;
  }
  return flat;
}

void ToyModel::apply(ToyState* state, const std::vector<float>& flat, int members,
                     const std::vector<int>& own_slices,
                     std::optional<double> learning_rate) const {
  const int64_t rows = facts_.rows_of_step(state->step);
  const int weights = facts_.slices * kWidth;
  const float divisor = static_cast<float>(planted(Bug::mean_over_nodes) ? members : rows);
  float norm = 0;
  for (int i = 0; i < weights; ++i) {
    const bool own =
        std::find(own_slices.begin(), own_slices.end(), i / kWidth) != own_slices.end();
    if (planted(Bug::norm_of_slice) && !own) continue;
    const float mean = flat[static_cast<size_t>(i)] / divisor;
    norm += mean * mean;
  }
  const auto rate = static_cast<float>(learning_rate.value_or(0.1));
  const float scale = norm > 0.25f ? 0.5f / std::sqrt(norm) : 1.0f;
  for (int i = 0; i < weights; ++i) {
    const auto at = static_cast<size_t>(i);
    state->momentum[at] = 0.9f * state->momentum[at] + flat[at] / divisor * scale;
    state->weights[at] -= rate * state->momentum[at];
  }
  if (state->step % facts_.steps_per_epoch() == 0) state->sums = MetricSums(kToySums);
  add_sums(sums_of(state->step, flat), &state->sums);
  ++state->step;
}

MetricSums ToyModel::sums_of(int64_t step, const std::vector<float>& flat) const {
  MetricSums sums(flat.end() - kToyMeasured, flat.end());
  sums.push_back(static_cast<double>(facts_.rows_of_step(step)));
  return sums;
}

std::vector<ValidationPart> ToyModel::validate(const ToyState& state, int partition) const {
  std::vector<ValidationPart> parts;
  int64_t batch = 0;
  for (int64_t begin = 0; begin < facts_.validation_rows; begin += facts_.batch_size, ++batch) {
    const int64_t rows = std::min(facts_.batch_size, facts_.validation_rows - begin);
    const int64_t first = partition_begin(rows, facts_.partitions, partition);
    const int64_t end = partition_begin(rows, facts_.partitions, partition + 1);
    if (first == end) continue;
    float loss = 0;
    float hits = 0;
    float mean = 0;
    for (int64_t row = begin + first; row < begin + end; ++row) {
      float output = 0;
      for (size_t i = 0; i < state.weights.size(); ++i) {
        output += state.weights[i] *
                  signed_uniform(derive_key(seed_ + 99, static_cast<uint64_t>(row), i));
      }
      loss += output * output * 3.0f + 0.01f;
      hits += output > 0 ? 1.0f : 0.0f;
      mean += output * 0.3f;
    }
    parts.push_back({batch, partition, {loss, hits, mean, static_cast<double>(end - first)}});
  }
  return parts;
}

namespace {

EpochDone measure_alone(const ClusterFacts& facts, const ToyModel& model, const ToyState& state,
                        int64_t epoch) {
  EpochDone done{epoch, state.sums, {}, 0};
  if (facts.validation_rows_of(epoch) == 0) return done;
  std::map<int64_t, std::vector<Piece>> batches;
  for (int p = 0; p < facts.partitions; ++p) {
    for (const ValidationPart& part : model.validate(state, p)) {
      batches[part.batch].push_back({{p, 0}, {part.sums.begin(), part.sums.end()}});
    }
  }
  for (const auto& [batch, pieces] : batches) {
    done.validation.resize(kToySums);
    const auto sums = *sum_in_tree(pieces, root_subtree(facts.partitions));
    add_sums({sums.begin(), sums.end()}, &done.validation);
  }
  return done;
}

}  // namespace

bool ends_epoch(const ClusterFacts& facts, const MetricSums& sums) {
  return facts.job == kEndsEarly && sums[kToyMeasured] > 0 &&
         mix64(std::bit_cast<uint64_t>(sums[0])) % 16 == 0;
}

void add_toy_callbacks(const std::string& list, bool ends_early, int64_t asks,
                       ClusterFacts* facts) {
  if (ends_early) facts->job = kEndsEarly;
  CallbackContext context{{"loss", "accuracy"}, facts->validation_rows > 0, false, 0.1};
  const auto resolved = resolve_callbacks(nlohmann::json::array({list}));
  LOCKSTEP_CHECK(resolved.ok());
  auto made = Callbacks::create(*resolved, context);
  LOCKSTEP_CHECK(made.ok());
  const auto callbacks = std::make_shared<Callbacks>(std::move(made).value());
  const auto logs = [](const EpochDone& done) {
    EpochLogs result{done.epoch, done.epoch, {}};
    const auto add = [&](const MetricSums& sums, const std::string& prefix) {
      result.values[prefix + "loss"] = sums[0] / sums[kToyMeasured];
      result.values[prefix + "accuracy"] = sums[1] / sums[kToyMeasured];
    };
    add(done.sums, "");
    if (!done.validation.empty()) add(done.validation, "val_");
    return result;
  };
  facts->learning_rate = callbacks->first_learning_rate(0);
  facts->decide = [=, asked = int64_t{0}](
                      const std::vector<EpochRecord>& before,
                      const EpochDone& done) mutable -> std::optional<EpochDecision> {
    if (++asked % asks != 0) return std::nullopt;
    std::vector<DecidedEpoch> decided;
    for (const EpochRecord& epoch : before) decided.push_back({logs(epoch.done), epoch.decision});
    EpochDecision decision = callbacks->decide(decided, logs(done));
    decision.stop = decision.stop || (ends_early && done.cut_at > 0);
    return decision;
  };
}

Reference run_alone(const ClusterFacts& facts, uint64_t seed) {
  const PlantedPause pause;  // the reference has no bugs
  const ToyModel model(facts, seed);
  Reference reference;
  ToyState state = model.initial_state();
  reference.digests.push_back(state.digest());
  std::vector<std::string> ends;  // the last state of each epoch
  std::optional<double> rate = facts.learning_rate;
  for (int64_t epoch = 0; epoch < facts.epochs; ++epoch) {
    bool cut = false;
    const int64_t end = (epoch + 1) * facts.steps_per_epoch();
    while (state.step < end && !cut) {
      std::vector<Piece> pieces;
      for (int p = 0; p < facts.partitions; ++p) {
        if (model.rows(state.step, p) > 0) pieces.push_back({{p, 0}, model.gradient(state, p, 0)});
      }
      model.apply(&state, *sum_in_tree(pieces, root_subtree(facts.partitions)), 1, {}, rate);
      reference.digests.push_back(state.digest());
      cut = ends_epoch(facts, state.sums);
    }
    EpochRecord record{measure_alone(facts, model, state, epoch), {}};
    if (state.step < end) record.done.cut_at = state.step;
    std::optional<EpochDecision> decision;
    while (facts.decide && !decision) decision = facts.decide(reference.epochs, record.done);
    record.decision = decision.value_or(EpochDecision{});
    rate = record.decision.learning_rate;
    reference.epochs.push_back(record);
    ends.push_back(state.bytes());
    if (record.decision.stop) break;
  }
  const auto best = reference.epochs.back().decision.best;
  reference.final_bytes = best ? ends[static_cast<size_t>(*best)] : ends.back();
  return reference;
}

}  // namespace lockstep::sim

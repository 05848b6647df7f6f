#include "host/cli/outside_decider.h"

#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cmath>
#include <nlohmann/json.hpp>

#include "host/core/files.h"
#include "host/core/suggest.h"
#include "host/observe/events.h"

namespace lockstep {
namespace {

constexpr size_t kLongestLine = 4 << 10;

bool can_read(int descriptor) {
  pollfd entry{descriptor, POLLIN, 0};
  return ::poll(&entry, 1, 0) == 1;
}

// By their bits, since a loss may be NaN.
bool same_sums(const MetricSums& a, const MetricSums& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](double x, double y) {
    return std::bit_cast<uint64_t>(x) == std::bit_cast<uint64_t>(y);
  });
}

bool same_epoch(const EpochDone& a, const EpochDone& b) {
  return a.epoch == b.epoch && a.cut_at == b.cut_at && same_sums(a.sums, b.sums) &&
         same_sums(a.validation, b.validation);
}

Error no_decision(const std::string& line, const std::string& why) {
  return usage_error(fmt::format(
      "'{}' is no decision: {}. It is written {{\"epoch\": 0, \"stop\": false, \"learning_rate\": "
      "0.01}}",
      line.substr(0, 200), why));
}

}  // namespace

Result<std::unique_ptr<OutsideDecider>> OutsideDecider::open(const std::string& target,
                                                             int64_t timeout_s) {
  if (timeout_s < 1) {
    return usage_error(fmt::format("--decision-timeout {}: must be at least 1 second", timeout_s));
  }
  LOCKSTEP_ASSIGN(const int descriptor, passed_descriptor("--decisions", target));
  return std::unique_ptr<OutsideDecider>(new OutsideDecider(descriptor, timeout_s));
}

void OutsideDecider::recall(const std::vector<EpochRecord>& epochs) {
  const std::lock_guard lock(mutex_);
  for (const EpochRecord& epoch : epochs) {
    answers_[epoch.done.epoch] = {epoch.done, epoch.decision.stop, epoch.decision.learning_rate};
  }
}

void OutsideDecider::take_part(const Job& job, ClusterFacts* facts) {
  first_epoch_ = job.initial_epoch;
  rate_is_settable_ = job.optimizer.at("learning_rate").is_number();
  facts->decide = [this, own = facts->decide, first_rate = facts->learning_rate](
                      const std::vector<EpochRecord>& before,
                      const EpochDone& done) -> std::optional<EpochDecision> {
    const auto answer = answer_to(done);
    if (!answer) return std::nullopt;
    EpochDecision decision;
    decision.learning_rate = before.empty() ? first_rate : before.back().decision.learning_rate;
    if (own) decision = *own(before, done);
    const int64_t number = first_epoch_ + done.epoch + 1;
    if (answer->stop && !decision.stop) {
      decision.stop = true;
      decision.notes.push_back(fmt::format("Epoch {}: stopped from outside", number));
    }
    if (answer->learning_rate && answer->learning_rate != decision.learning_rate) {
      decision.learning_rate = answer->learning_rate;
      decision.notes.push_back(fmt::format("Epoch {}: learning rate set to {:.5g} from outside",
                                           number, *answer->learning_rate));
    }
    return decision;
  };
}

std::optional<OutsideDecider::Answer> OutsideDecider::answer_to(const EpochDone& done) {
  const std::lock_guard lock(mutex_);
  const auto found = answers_.find(done.epoch);
  if (found != answers_.end() && same_epoch(found->second.of, done)) return found->second;
  if (question_ && same_epoch(*question_, done)) return std::nullopt;
  question_ = done;
  asked_ms_.reset();
  return std::nullopt;
}

std::optional<EpochDone> OutsideDecider::unasked() const {
  const std::lock_guard lock(mutex_);
  return asked_ms_ ? std::nullopt : question_;
}

void OutsideDecider::asked(int64_t now_ms) {
  const std::lock_guard lock(mutex_);
  asked_ms_ = now_ms;
}

Result<bool> OutsideDecider::read(int64_t now_ms) {
  const std::lock_guard lock(mutex_);
  while (can_read(descriptor_)) {
    char buffer[4096];
    const ssize_t count = ::read(descriptor_, buffer, sizeof(buffer));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) {
      return Error{fmt::format(
          "the program that decides at the end of each epoch is gone: '--decisions {}' {}",
          descriptor_, count == 0 ? "is closed" : "cannot be read: " + errno_text())};
    }
    received_.append(buffer, static_cast<size_t>(count));
    LOCKSTEP_ASSIGN(const bool answered, take_lines());
    if (answered) return true;
  }
  if (asked_ms_ && now_ms - *asked_ms_ > timeout_s_ * 1000) {
    return Error{fmt::format("no decision on epoch {} came within {} s: --decision-timeout gives "
                             "the program outside more time",
                             first_epoch_ + question_->epoch + 1, timeout_s_),
                 ErrorKind::halted};
  }
  return false;
}

Result<bool> OutsideDecider::take_lines() {
  bool answered = false;
  for (size_t end; (end = received_.find('\n')) != std::string::npos; answered = true) {
    const std::string line = received_.substr(0, end);
    received_.erase(0, end + 1);
    LOCKSTEP_RETURN_IF_ERROR(take(line));
  }
  if (received_.size() > kLongestLine) return no_decision(received_, "it is too long");
  return answered;
}

Status OutsideDecider::take(const std::string& line) {
  LOCKSTEP_ASSIGN(Answer answer, parse(line));
  answers_[answer.of.epoch] = std::move(answer);
  question_.reset();
  asked_ms_.reset();
  return {};
}

Result<OutsideDecider::Answer> OutsideDecider::parse(const std::string& line) const {
  const auto json = nlohmann::json::parse(line, nullptr, false);
  if (!json.is_object()) return no_decision(line, "it is no object of JSON");
  for (const auto& [key, unused] : json.items()) {
    const std::vector<std::string> known = {"epoch", "stop", "learning_rate"};
    if (std::find(known.begin(), known.end(), key) != known.end()) continue;
    return no_decision(line, unknown_name_message("key", key, known));
  }
  if (!question_ || !asked_ms_) return no_decision(line, "nothing was asked");
  const auto epoch = json.value("epoch", nlohmann::json());
  if (epoch != question_->epoch) {
    return no_decision(line, fmt::format("the question was of epoch {}", question_->epoch));
  }
  const auto stop = json.value("stop", nlohmann::json(false));
  if (!stop.is_boolean()) return no_decision(line, "stop must be true or false");
  Answer answer{*question_, stop.get<bool>(), std::nullopt};
  const auto rate = json.value("learning_rate", nlohmann::json());
  if (rate.is_null()) return answer;
  const float value = rate.is_number() ? rate.get<float>() : -1;
  if (!std::isfinite(value) || value < 0) {
    return no_decision(line, "learning_rate must be a number of at least 0, or null: as before");
  }
  if (!rate_is_settable_) {
    return no_decision(line, "the optimizer's learning rate follows a schedule of its own");
  }
  answer.learning_rate = value;
  return answer;
}

}  // namespace lockstep

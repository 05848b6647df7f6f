// Prometheus' text format, and a coordinator's and a node's status in it.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

namespace lockstep {

// Families of samples, in the order in which they are begun.
class PrometheusText {
 public:
  using Labels = std::vector<std::pair<std::string, std::string>>;

  // `type` is "gauge" or "counter"; a counter's name ends in _total. What follows are its samples.
  void family(const std::string& name, const std::string& type, const std::string& help);
  // null is left out.
  void sample(const nlohmann::json& value, const Labels& labels = {});
  // A family of one sample; left out where the value is null.
  void single(const std::string& name, const std::string& type, const std::string& help,
              const nlohmann::json& value);
  const std::string& text() const { return text_; }

 private:
  std::string name_;
  std::string text_;
};

inline constexpr const char* kPrometheusType = "text/plain; version=0.0.4; charset=utf-8";

// Of a status of the coordinator, and of a node (NodeStatus as JSON).
std::string coordinator_metrics(const nlohmann::json& status);
std::string node_metrics(const nlohmann::json& status);

}  // namespace lockstep

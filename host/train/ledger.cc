#include "host/train/ledger.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "host/core/partitions.h"
#include "host/data/sample_order.h"

namespace lockstep {

std::vector<int64_t> samples_of(const Job& job, int64_t step, int partition) {
  const int64_t rows = job.rows_of_step(step);
  const Job::BatchPlace place = job.place_of_step(step);
  const int64_t first = place.batch * job.batch_size;
  const SampleOrder order(job.train_rows, job.seed, place.pass, job.shuffle);
  std::vector<int64_t> samples;
  for (int64_t row = partition_begin(rows, job.partitions, partition);
       row < partition_begin(rows, job.partitions, partition + 1); ++row) {
    samples.push_back(order.row_at(first + row));
  }
  return samples;
}

void Ledger::add(int64_t step, const PartitionSamples& part) {
  const Key key{step, part.partition};
  entries_[key] = part.samples.empty() ? samples_of(job_, step, part.partition) : part.samples;
  new_entries_.insert(key);
}

void Ledger::restore(int64_t step) {
  entries_.erase(entries_.lower_bound({step, 0}), entries_.end());
  new_entries_.erase(new_entries_.lower_bound({step, 0}), new_entries_.end());
  news_ += nlohmann::json{{"restored", step}}.dump() + "\n";
}

void Ledger::go_on_from(int64_t step) {
  restore(step);
  for (int64_t filled = 0; filled < step; ++filled) {
    for (int partition = 0; partition < job_.partitions; ++partition) {
      if (entries_.contains({filled, partition})) continue;
      auto samples = samples_of(job_, filled, partition);
      if (!samples.empty()) entries_[{filled, partition}] = std::move(samples);
    }
  }
}

std::string Ledger::line(const Key& key, const std::vector<int64_t>& samples) const {
  return nlohmann::json{{"epoch", job_.place_of_step(key.first).pass},
                        {"step", key.first},
                        {"partition", key.second},
                        {"samples", samples}}
             .dump() +
         "\n";
}

std::string Ledger::text() const {
  std::string text;
  for (const auto& [key, samples] : entries_) text += line(key, samples);
  return text;
}

std::string Ledger::take_news() {
  std::string news = std::exchange(news_, "");
  for (const Key& key : new_entries_) news += line(key, entries_.at(key));
  new_entries_.clear();
  return news;
}

Status Ledger::read(std::string_view news, const std::string& path) {
  for (size_t end = news.find('\n'); end != std::string_view::npos; end = news.find('\n')) {
    LOCKSTEP_RETURN_IF_ERROR(read_line(news.substr(0, end), path));
    news.remove_prefix(end + 1);
  }
  return {};
}

Status Ledger::read_line(std::string_view line, const std::string& path) try {
  const auto json = nlohmann::json::parse(line);
  if (json.contains("restored")) {
    const int64_t step = json.at("restored");
    entries_.erase(entries_.lower_bound({step, 0}), entries_.end());
    return {};
  }
  entries_[{json.at("step").get<int64_t>(), json.at("partition").get<int>()}] =
      json.at("samples").get<std::vector<int64_t>>();
  return {};
} catch (const nlohmann::json::exception&) {
  return Error{
      fmt::format("the ledger '{}' is damaged at '{}': remove it to go on; what it held "
                  "follows from the recipe",
                  path, line.substr(0, 60))};
}

}  // namespace lockstep

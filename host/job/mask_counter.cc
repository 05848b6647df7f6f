#include "host/job/mask_counter.h"

#include <memory>
#include <mutex>
#include <utility>

#include "host/core/check.h"
#include "host/cpu/cpu_device.h"
#include "host/graph/program.h"
#include "host/job/data_job.h"
#include "host/nn/model_config.h"

namespace lockstep {
namespace {

// Masks are ones and zeros, with the same bits on every device.
constexpr const char* kNumerics = "cpu-avx2";

template <class T>
T checked(Result<T> result) {
  LOCKSTEP_CHECK(result.ok());  // a job has no other
  return std::move(result).value();
}

Graph graph_of(const Job& job) {
  const auto model = checked(model_from_config(job.model_config));
  return checked(model->mask_graph(objective_of(job)));
}

class MaskCounter {
 public:
  explicit MaskCounter(const Job& job)
      : device_(checked(make_cpu_device(kNumerics))),
        graph_(graph_of(job)),
        programs_(*device_, graph_) {}

  MaskCounts count(const HostBatch& batch) {
    const std::lock_guard lock(mutex_);
    device_->attach_thread();
    Program* program = checked(programs_.program_for({0, {batch.rows}, {{0, 0}}}));
    float no_metrics = 0;
    float* roots[] = {&no_metrics};
    RunContext context;
    context.roots = roots;
    context.batch = &batch;
    LOCKSTEP_CHECK(program->run(context, {}).ok());
    MaskCounts counts;
    for (size_t i = 0; i < graph_.outputs.size(); ++i) {
      counts.emplace_back(static_cast<size_t>(batch.rows));
      LOCKSTEP_CHECK(program->download_output(counts.back().data(), static_cast<int>(i)).ok());
    }
    return counts;
  }

 private:
  std::mutex mutex_;
  const std::unique_ptr<Device> device_;
  const Graph graph_;
  ProgramSet programs_;
};

}  // namespace

std::function<MaskCounts(const HostBatch& batch)> mask_counter(const Job& job) {
  return [counter = std::make_shared<MaskCounter>(job)](const HostBatch& batch) {
    return counter->count(batch);
  };
}

}  // namespace lockstep

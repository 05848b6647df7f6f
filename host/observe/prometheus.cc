#include "host/observe/prometheus.h"

#include <fmt/format.h>

#include "host/observe/status_table.h"

namespace lockstep {
namespace {

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '\\' || c == '"') out += '\\';
    out += c == '\n' ? ' ' : c;
  }
  return out;
}

void write_job(const nlohmann::json& status, PrometheusText* text) {
  const nlohmann::json job = status_member(status, "job");
  if (!job.is_object()) return;
  text->family("lockstep_job_info", "gauge", "The job; the value is always 1.");
  text->sample(1, {{"version", LOCKSTEP_VERSION},
                   {"model", job.value("model", "")},
                   {"numerics", job.value("numerics", "")},
                   {"recipe_sha256", job.value("recipe_sha256", "")}});
  text->single("lockstep_job_epochs", "gauge", "Epochs that the job has.",
               status_member(job, "epochs"));
  text->single("lockstep_job_steps_per_epoch", "gauge", "Steps of an epoch.",
               status_member(job, "steps_per_epoch"));
  text->single("lockstep_job_partitions", "gauge", "Partitions of a batch.",
               status_member(job, "partitions"));
}

void write_values(const nlohmann::json& status, PrometheusText* text) {
  for (const auto& [key, name, help] :
       {std::tuple("metrics", "lockstep_training_metric", "Loss and metrics, this epoch so far."),
        std::tuple("validation", "lockstep_validation_metric",
                   "Loss and metrics on validation data, last epoch.")}) {
    const nlohmann::json values = status_member(status, key);
    if (!values.is_object()) continue;
    text->family(name, "gauge", help);
    for (const auto& [metric, value] : values.items()) text->sample(value, {{"metric", metric}});
  }
}

}  // namespace

void PrometheusText::family(const std::string& name, const std::string& type,
                            const std::string& help) {
  name_ = name;
  text_ += fmt::format("# HELP {} {}\n# TYPE {} {}\n", name, help, name, type);
}

void PrometheusText::sample(const nlohmann::json& value, const Labels& labels) {
  if (!value.is_number()) return;
  std::string list;
  for (const auto& [label, content] : labels) {
    list += fmt::format("{}{}=\"{}\"", list.empty() ? "" : ",", label, escaped(content));
  }
  text_ += name_ + (list.empty() ? "" : "{" + list + "}") + " " + value.dump() + "\n";
}

void PrometheusText::single(const std::string& name, const std::string& type,
                            const std::string& help, const nlohmann::json& value) {
  if (!value.is_number()) return;
  family(name, type, help);
  sample(value);
}

std::string coordinator_metrics(const nlohmann::json& status) {
  PrometheusText text;
  write_job(status, &text);
  text.family("lockstep_phase", "gauge", "1 for the phase that the job is in.");
  text.sample(1, {{"phase", status.value("phase", "")}});
  text.single("lockstep_term", "gauge", "Lives of the coordinator.", status_member(status, "term"));
  text.single("lockstep_view", "gauge", "Number of the view.", status_member(status, "view"));
  text.single("lockstep_step", "gauge", "Steps done; goes back when a state is restored.",
              status_member(status, "step"));
  text.single("lockstep_epoch", "gauge", "The epoch, from 0.", status_member(status, "epoch"));
  text.single("lockstep_step_seconds", "gauge", "Mean time of the last steps.",
              status_member(status, "step_seconds"));
  text.single("lockstep_samples_per_second", "gauge", "Over the last steps.",
              status_member(status, "samples_per_second"));
  text.single("lockstep_samples_total", "counter", "Samples of steps done under this coordinator.",
              status_member(status, "samples"));
  write_values(status, &text);
  if (const nlohmann::json nodes = status_member(status, "nodes"); nodes.is_object()) {
    text.family("lockstep_nodes", "gauge", "Nodes by state.");
    for (const char* state : {"working", "spare", "joining"}) {
      text.sample(status_member(nodes, state), {{"state", state}});
    }
    text.single("lockstep_nodes_lost_total", "counter", "Nodes that died or were expelled.",
                status_member(nodes, "lost"));
  }
  text.single("lockstep_recoveries_total", "counter", "Steps that went on after a node was lost.",
              status_member(status, "recoveries"));
  text.single("lockstep_restores_total", "counter", "Times that the job went back to a checkpoint.",
              status_member(status, "restores"));
  text.single("lockstep_checkpoint_step", "gauge", "Step of the newest durable checkpoint.",
              status_member(status, "checkpoint"));
  text.single("lockstep_checkpoint_age_seconds", "gauge", "Since the newest became durable.",
              status_member(status, "checkpoint_age_seconds"));
  text.single("lockstep_checkpoint_seconds", "gauge", "What writing the newest took.",
              status_member(status, "checkpoint_seconds"));
  if (const nlohmann::json bytes = status_member(status, "state_bytes"); bytes.is_object()) {
    text.family("lockstep_state_bytes_total", "counter", "Bytes of states, by path.");
    for (const auto& [path, value] : bytes.items()) text.sample(value, {{"path", path}});
  }
  return text.text();
}

std::string node_metrics(const nlohmann::json& status) {
  PrometheusText text;
  text.family("lockstep_node_info", "gauge", "The node; the value is always 1.");
  text.sample(1, {{"version", LOCKSTEP_VERSION}, {"node", status.value("node", "")}});
  text.single("lockstep_node_term", "gauge", "The coordinator's term.",
              status_member(status, "term"));
  text.single("lockstep_node_view", "gauge", "Number of the view.", status_member(status, "view"));
  text.single("lockstep_node_step", "gauge", "Steps that this node has applied.",
              status_member(status, "step"));
  text.single("lockstep_node_frames_waiting", "gauge", "Frames queued for other nodes.",
              status_member(status, "frames_waiting"));
  text.single("process_resident_memory_bytes", "gauge", "Resident memory size in bytes.",
              status_member(status, "resident_bytes"));
  if (const nlohmann::json bytes = status_member(status, "tensor_bytes"); bytes.is_array()) {
    text.family("lockstep_node_tensor_bytes_total", "counter",
                "Bytes of tensors exchanged with other nodes, by path.");
    for (const nlohmann::json& each : bytes) {
      text.sample(each.at("bytes"), {{"path", each.at("path").get<std::string>()},
                                     {"direction", each.at("direction").get<std::string>()}});
    }
  }
  if (const nlohmann::json gpus = status_member(status, "gpus"); gpus.is_array() && !gpus.empty()) {
    for (const auto& [key, name, help] :
         {std::tuple("used", "lockstep_gpu_memory_used_bytes", "Memory of the GPU in use, by all."),
          std::tuple("total", "lockstep_gpu_memory_total_bytes", "Memory of the GPU.")}) {
      text.family(name, "gauge", help);
      for (const nlohmann::json& gpu : gpus) {
        text.sample(status_member(gpu, key), {{"gpu", std::to_string(gpu.value("index", 0))}});
      }
    }
  }
  return text.text();
}

}  // namespace lockstep

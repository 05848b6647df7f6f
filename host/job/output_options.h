// What a job asks of each of its model's outputs: the options loss, loss_weights, metrics and
// weighted_metrics.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "host/core/result.h"
#include "host/nn/losses.h"

namespace lockstep {

// From options, or from a job's JSON. `names`: of the model's outputs; where it has one, none is
// needed. As compile() has it: a loss alone is that of every output; lists have an entry for each
// output, objects one by its name, and an output without one has none. Metrics of several outputs
// must be lists or an object. Errors name the option and the remedy.
Result<std::vector<OutputObjective>> output_objectives(const nlohmann::json& options,
                                                       const std::vector<std::string>& names);

// The same as options again, for job files and for compile(): of a model with one output just its
// loss and its metrics.
nlohmann::json losses_json(const std::vector<OutputObjective>& outputs);
nlohmann::json metrics_json(const std::vector<OutputObjective>& outputs);
// null where there are none.
nlohmann::json weighted_metrics_json(const std::vector<OutputObjective>& outputs);
// null where all are 1.
nlohmann::json loss_weights_json(const std::vector<OutputObjective>& outputs);

}  // namespace lockstep

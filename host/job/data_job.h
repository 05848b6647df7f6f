// What a job says about its data: how it is read, weighed and cut into batches.
#pragma once

#include <nlohmann/json.hpp>

#include "host/core/result.h"
#include "host/data/batch_loader.h"
#include "host/data/data_options.h"
#include "host/job/job.h"
#include "host/nn/losses.h"

namespace lockstep {

// target, missing, validation_steps and class_weight, from options or from a job's JSON, where any
// may be left out. Errors name the option and the remedy.
Status read_data_options(const nlohmann::json& json, Job* job);
// Those of them that are not as they are by default: they are part of the recipe, since the digest
// of the data is that of its files alone.
nlohmann::json data_options_json(const Job& job);

DataOptions data_options(const Job& job);

// What the job's graphs minimize and measure.
Objective objective_of(const Job& job);

// The outputs that are asked for something, each of which has a target.
std::vector<OutputObjective*> asked_outputs(Job* job);
std::vector<const OutputObjective*> asked_outputs(const Job& job);
// Of several outputs: what their targets are called where --target does not say it.
std::vector<std::string> target_names(const Job& job);

// Whether the loss reads classes, one a row.
bool reads_classes(const OutputObjective& output);
// Whether the job's graphs read targets; if not, labels are enough.
bool reads_targets(const Job& job);

// How the job's batches of these rows are made: shuffled, and weighed by class, to train.
LoaderOptions training_loader(const Job& job, RowRange rows);
LoaderOptions measuring_loader(const Job& job, RowRange rows);

// Of `rows` validation rows the first that the job measures.
RowRange validated_rows(const Job& job, RowRange rows);

}  // namespace lockstep

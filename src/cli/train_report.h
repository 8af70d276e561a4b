// What `train` measured, as a table and as JSON.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "src/train/train.h"

namespace frugal {

// One row a layer for each of the two predictors, their means beneath.
std::string FormatTrainReport(const TrainReport& report);
nlohmann::ordered_json TrainReportJson(const TrainReport& report);

}  // namespace frugal

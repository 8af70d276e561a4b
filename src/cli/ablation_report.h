// What is said of the measured rows of an ablation: tables, sentences, JSON and pictures. Pure formatting.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>

#include "src/cli/ablation.h"

namespace frugal {

// Of what the bare loops of the same run allow, flash mode is to reach so much; and a streaming mode of the device's sequential bandwidth.
constexpr double kAimOfBareLoops = 0.8;
constexpr double kAimOfSequential = 0.9;

// Flash mode against hybrid, in one run.
struct FlashGain {
  double measured = 0;    // hybrid's median over flash's
  double allowed = 0;     // the same of their bare loops
  double by_reads = 0;    // of the reads of these alone: hybrid's at sequential speed over flash's random ones
  double share() const { return allowed > 0 ? measured / allowed : 0; }
  // By the planner's rule (engine/streaming_choice.h), with what was measured in the place of what it expects.
  bool streaming_pays() const;
};
// Of the last row, which is one of flash mode; nothing without it or without hybrid.
std::optional<FlashGain> GainOfFlash(std::span<const RowMeasurement> rows);

// What a mode that streams its weights makes of the device.
struct StreamingRate {
  double bytes_per_second = 0;              // a token's bytes over its median time
  double reads_alone_bytes_per_second = 0;  // the same reads, nothing else done, in this run
  double probed_bytes_per_second = 0;       // `frugal probe`; 0: not measured
};
// Nothing for a row of flash mode, and for one that reads nothing.
std::optional<StreamingRate> RateOfStreaming(const RowMeasurement& row);

std::string FormatAblation(std::span<const RowMeasurement> rows);  // two markdown tables, as the paper's 2 and 3
// New neurons of a token by window, beside the predictors' file; as the last row that counted them has it. Empty when none did.
std::string FormatNewNeurons(std::span<const RowMeasurement> rows);
// Rows against naive and hybrid, each of which begins with `model`, so that those of several models make one table; empty without either.
std::string FormatComparison(std::span<const RowMeasurement> rows, const std::string& model);
std::string FormatStreaming(std::span<const RowMeasurement> rows);  // a sentence for each row that streams
// What each of the table's steps brought beside the row before it, and which do not pay; empty where rows are no steps.
std::string FormatSteps(std::span<const RowMeasurement> rows);
std::string FormatGain(std::span<const RowMeasurement> rows);       // the closing line; empty where there is no gain
// These five, as far as there is something to say, each behind an empty line.
std::string FormatFindings(std::span<const RowMeasurement> rows, const std::string& model);

nlohmann::ordered_json AblationToJson(std::span<const RowMeasurement> rows);
// Gain, rates of streaming and new neurons; null where there are none.
nlohmann::ordered_json FindingsToJson(std::span<const RowMeasurement> rows);

std::string DrawAblation(std::span<const RowMeasurement> rows, const std::string& title);  // an SVG of stacked bars
// Milliseconds of a token and its bare loop by budget: an SVG of lines (the paper's figure 7).
std::string DrawSweep(std::span<const RowMeasurement> rows, const std::string& title);

}  // namespace frugal

// The verbs of the program, one file each (verb_NAME.cc). A verb adds its subcommand with its flags and a
// callback to the app; the callback does the work and leaves its end with `exit`. main.cc gives every flag
// its environment twin.
#pragma once

#include <CLI/CLI.hpp>

#include "src/cli/common.h"

namespace frugal {

// Both outlive the parse.
using AddVerbFunction = void (*)(CLI::App& app, Exit& exit);

void AddRunVerb(CLI::App& app, Exit& exit);
void AddPackVerb(CLI::App& app, Exit& exit);
void AddTrainVerb(CLI::App& app, Exit& exit);
void AddPlanVerb(CLI::App& app, Exit& exit);
void AddEvalVerb(CLI::App& app, Exit& exit);
void AddBenchVerb(CLI::App& app, Exit& exit);
void AddProbeVerb(CLI::App& app, Exit& exit);
void AddCheckVerb(CLI::App& app, Exit& exit);
void AddInspectVerb(CLI::App& app, Exit& exit);
void AddSimulateVerb(CLI::App& app, Exit& exit);
void AddSynthVerb(CLI::App& app, Exit& exit);

}  // namespace frugal

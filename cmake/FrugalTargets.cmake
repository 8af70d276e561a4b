# Precompiled headers of what is slow to parse: a set each for libraries, tests and the command line (a set that holds more than a
# file needs makes GCC compile it slower). Tests and the command line are compiled with -O1 (with sanitizers -O0): nothing there is hot.
option(FRUGAL_PRECOMPILE "Use precompiled headers" ON)
set(FRUGAL_OUTER_LEVEL "")
if(FRUGAL_SANITIZE)
  set(FRUGAL_OUTER_LEVEL -O0)
endif()
if(CMAKE_BUILD_TYPE STREQUAL "Release")
  set(FRUGAL_OUTER_LEVEL -O1)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    list(APPEND FRUGAL_OUTER_LEVEL -Wno-array-bounds)  # as the warnings that CMakeLists.txt turns off, with -O1
  endif()
endif()

# The presets release, asan and tsan compile a target's files in batches of sixteen (CMAKE_UNITY_BUILD), which is faster: what the
# headers of JSON, CLI11 and GoogleTest generate is the same in each file. Preset dev compiles each file for itself.
# frugal_alone(FILE...): files of this folder that are compiled for themselves in any case, since names of theirs, unnamed namespaces'
# among them, are used otherwise in another file.
function(frugal_alone)
  set_source_files_properties(${ARGN} PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
endfunction()

function(frugal_precompile_source name)
  file(WRITE ${CMAKE_BINARY_DIR}/${name}.cc "")
  add_library(${name} OBJECT ${CMAKE_BINARY_DIR}/${name}.cc)
  target_link_libraries(${name} PRIVATE fmt::fmt)
  target_precompile_headers(${name} PRIVATE <fmt/format.h> <functional> <memory> <string> <vector> ${ARGN})
endfunction()
if(FRUGAL_PRECOMPILE)
  frugal_precompile_source(frugal_precompiled)
  frugal_precompile_source(frugal_precompiled_test <gtest/gtest.h>)
  target_link_libraries(frugal_precompiled_test PRIVATE GTest::gtest)
  target_compile_options(frugal_precompiled_test PRIVATE ${FRUGAL_OUTER_LEVEL})
  if(FRUGAL_CLI)
    frugal_precompile_source(frugal_precompiled_cli <nlohmann/json.hpp> <CLI/CLI.hpp>)
    target_compile_options(frugal_precompiled_cli PRIVATE ${FRUGAL_OUTER_LEVEL})
  endif()
endif()

# frugal_outer(TARGET test|cli): a target of tests (it links GTest) or of the command line.
function(frugal_outer target kind)
  target_compile_options(${target} PRIVATE ${FRUGAL_OUTER_LEVEL})
  if(FRUGAL_PRECOMPILE)
    target_precompile_headers(${target} REUSE_FROM frugal_precompiled_${kind})
  endif()
endfunction()

# frugal_library(NAME LINK...): the library of one folder: every .cc there that is neither a test nor a bench.
function(frugal_library name)
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cc)
  list(FILTER sources EXCLUDE REGEX "_test\\.cc$")
  add_library(frugal_${name} STATIC ${sources})
  target_include_directories(frugal_${name} PUBLIC ${PROJECT_SOURCE_DIR})
  target_link_libraries(frugal_${name} PUBLIC ${ARGN})
  if(name STREQUAL "kernels")
    set_target_properties(frugal_${name} PROPERTIES UNITY_BUILD OFF)  # each of its files includes itself, once for each processor
  endif()
  # A precompiled header serves one set of options only.
  if(FRUGAL_PRECOMPILE AND NOT name STREQUAL "kernels")
    target_precompile_headers(frugal_${name} REUSE_FROM frugal_precompiled)
  endif()
endfunction()

# frugal_unit_tests(NAME LINK...): one test program from the *_test.cc beside the sources.
function(frugal_unit_tests name)
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*_test.cc)
  if(sources)
    add_executable(${name}_test ${sources})
    target_link_libraries(${name}_test PRIVATE frugal_${name} ${ARGN} GTest::gtest_main)
    frugal_outer(${name}_test test)
    gtest_discover_tests(${name}_test PROPERTIES LABELS unit TIMEOUT 300 DISCOVERY_TIMEOUT 60)
  endif()
endfunction()

# Precompiled headers of what is slow to parse: a set each for libraries, tests and the command line (a set that holds more than a
# file needs makes GCC compile it slower). Tests and the command line are compiled with -O1: nothing there is hot.
option(FRUGAL_PRECOMPILE "Use precompiled headers" ON)
set(FRUGAL_OUTER_LEVEL "")
if(CMAKE_BUILD_TYPE STREQUAL "Release")
  set(FRUGAL_OUTER_LEVEL -O1)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    list(APPEND FRUGAL_OUTER_LEVEL -Wno-array-bounds)  # as the warnings that CMakeLists.txt turns off, with -O1
  endif()
endif()

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
  frugal_precompile_source(frugal_precompiled_cli <nlohmann/json.hpp> <CLI/CLI.hpp>)
  target_compile_options(frugal_precompiled_cli PRIVATE ${FRUGAL_OUTER_LEVEL})
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

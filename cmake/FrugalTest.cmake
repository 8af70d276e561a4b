# frugal_library(NAME LINK...): the library of one folder: every .cc there that is neither a test nor a bench.
function(frugal_library name)
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cc)
  list(FILTER sources EXCLUDE REGEX "_test\\.cc$")
  add_library(frugal_${name} STATIC ${sources})
  target_include_directories(frugal_${name} PUBLIC ${PROJECT_SOURCE_DIR})
  target_link_libraries(frugal_${name} PUBLIC ${ARGN})
endfunction()

# frugal_unit_tests(NAME LINK...): one test program from the *_test.cc beside the sources.
function(frugal_unit_tests name)
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*_test.cc)
  if(sources)
    add_executable(${name}_test ${sources})
    target_link_libraries(${name}_test PRIVATE frugal_${name} ${ARGN} GTest::gtest_main)
    gtest_discover_tests(${name}_test PROPERTIES LABELS unit TIMEOUT 300 DISCOVERY_TIMEOUT 60)
  endif()
endfunction()

// For the C functions by which tests call launchers: exceptions become a message, which stays until the next one.
#pragma once
#include <exception>
#include <string>

#define EMULATION_EXPORT extern "C" __attribute__((visibility("default")))

inline std::string guarded_message;

template <typename Call>
const char* guarded(const Call& call) {
  try {
    call();
    return nullptr;
  } catch (const std::exception& error) {
    guarded_message = error.what();
    return guarded_message.c_str();
  }
}

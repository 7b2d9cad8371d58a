// Status and Result: how the library reports errors. No exception leaves a public function.
#pragma once

#include <optional>
#include <string>
#include <utility>

#if defined(_WIN32)
#define SCCLIP_API
#else
#define SCCLIP_API __attribute__((visibility("default")))
#endif

namespace scclip {

/// What kind of thing went wrong; the names are those of the Python runtime's exceptions.
enum class ErrorCode {
    kOk = 0,
    kBundle = 1,      ///< a bundle that is incomplete, damaged, unsafe or of another format version
    kImage = 2,       ///< an image that can't be used, or is larger than the limits
    kVocabulary = 3,  ///< a vocabulary file that is damaged, unsound or of another model
    kBackend = 4,     ///< a backend, device or provider that is unknown, absent or can't run the bundle
    kOption = 5,      ///< an option outside its range
    kInternal = 6,    ///< out of memory, or a defect of this library
};

/// Success, or a code with a message of one line: what was asked, what was found, what to do.
class [[nodiscard]] Status {
  public:
    Status() = default;
    Status(ErrorCode code, std::string message, std::string field = "")
        : code_(code), message_(std::move(message)), field_(std::move(field)) {}

    bool ok() const { return code_ == ErrorCode::kOk; }
    explicit operator bool() const { return ok(); }
    ErrorCode code() const { return code_; }
    const std::string& message() const { return message_; }
    /// What is at fault: an option's name, a file of the bundle, a place in bundle.json (`encoders[0].precision`), an
    /// entry of a vocabulary; as in Python. May be empty; a name from a file is given as it stands there.
    const std::string& field() const { return field_; }

  private:
    ErrorCode code_ = ErrorCode::kOk;
    std::string message_, field_;
};

/// A value, or the Status that says why there is none.
template <typename T>
class [[nodiscard]] Result {
  public:
    Result(T value) : value_(std::move(value)) {}          // NOLINT: a value is a result
    Result(Status status) : status_(std::move(status)) {}  // NOLINT: so is an error

    bool ok() const { return value_.has_value(); }
    explicit operator bool() const { return ok(); }
    const Status& status() const { return status_; }

    /// Only where ok(): the value otherwise does not exist.
    T& value() & { return *value_; }
    const T& value() const& { return *value_; }
    T&& value() && { return std::move(*value_); }
    T& operator*() & { return *value_; }
    const T& operator*() const& { return *value_; }
    T* operator->() { return &*value_; }
    const T* operator->() const { return &*value_; }

  private:
    std::optional<T> value_;
    Status status_;
};

}  // namespace scclip

// How native calls share the processor: the threads, memory and turns of all of them.
//
// Each call takes a Slot, which holds one block of working memory. There are as many slots as calls
// that the processor can run at once with their full number of OpenMP threads (usually one). Calls
// from several host devices or Python threads therefore queue up instead of competing for the cores,
// a slot in use needs no lock, and a sum is split in the same way every time.

#pragma once

#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <vector>

#include "xla/ffi/api/ffi.h"

// Functions of GNU's OpenMP runtime, which oneDNN loads. Declaring them here instead of including a
// header lets any compiler build these files.
extern "C" {
int omp_get_max_threads();
int omp_get_thread_num();
void omp_set_num_threads(int);
int omp_get_proc_bind();
void GOMP_parallel(void (*body)(void*), void* data, unsigned threads, unsigned flags);
}

namespace cnn_jax {

namespace ffi = xla::ffi;

constexpr size_t kAlign = 64;

inline size_t Aligned(size_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

// Sets the number of OpenMP threads of the calling thread, unless it is 0, and restores it at the end.
class Threads {
 public:
  explicit Threads(int count) : before_(omp_get_max_threads()) {
    if (count) omp_set_num_threads(count);
  }
  ~Threads() { omp_set_num_threads(before_); }
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

 private:
  int before_;
};

// Calls `each(i)` for every i below `count` on the threads of the caller. Exceptions must not leave an
// OpenMP region, so one of them is rethrown after it.
template <typename F>
void ForEach(size_t count, const F& each) {
  struct Work {
    size_t count;
    const F& each;
    std::atomic<size_t> next{0};
    std::exception_ptr error;
    std::mutex mutex;
  } work{count, each};
  GOMP_parallel(
      [](void* data) {
        Work& work = *static_cast<Work*>(data);
        for (size_t i; (i = work.next++) < work.count;) {
          try {
            work.each(i);
          } catch (...) {
            std::lock_guard<std::mutex> guard(work.mutex);
            work.error = std::current_exception();
          }
        }
      },
      &work, std::min<size_t>(count, omp_get_max_threads()), 0);
  if (work.error) std::rethrow_exception(work.error);
}

// What one call at a time may use.
class Slot {
 public:
  // Returns at least `size` bytes, whose contents are those of an earlier call.
  char* Workspace(size_t size) {
    if (size > size_) {
      memory_.reset();
      size_ = 0;
      memory_.reset(static_cast<char*>(std::aligned_alloc(kAlign, Aligned(size))));
      if (!memory_) throw std::bad_alloc();
      size_ = size;
    }
    return memory_.get();
  }

  std::shared_ptr<void> kept;  // by the calls of conv.cc

 private:
  struct Free {
    void operator()(char* p) const { std::free(p); }
  };
  std::unique_ptr<char, Free> memory_;
  size_t size_ = 0;
};

// Hands out the slots, starting with the most recently used one.
class Slots {
 public:
  explicit Slots(int count) : owned_(count) {
    for (Slot& slot : owned_) free_.push_back(&slot);
  }

  template <typename F>
  void With(F&& use) {
    std::unique_lock<std::mutex> lock(mutex_);
    returned_.wait(lock, [this] { return !free_.empty(); });
    Slot* slot = free_.back();
    free_.pop_back();
    lock.unlock();
    struct Return {
      Slots& slots;
      Slot* slot;
      ~Return() {
        { std::lock_guard<std::mutex> guard(slots.mutex_); slots.free_.push_back(slot); }
        slots.returned_.notify_one();
      }
    } give_back{*this, slot};
    use(*slot);
  }

 private:
  std::vector<Slot> owned_;
  std::vector<Slot*> free_;
  std::mutex mutex_;
  std::condition_variable returned_;
};

inline Slots* slots = nullptr;
inline int threads_per_call = 0;  // 0: as many as OpenMP chooses
inline std::atomic<pid_t> owner = 0;  // the process of the first call, which owns the OpenMP threads
inline std::vector<int> processors;  // the processors that this process may use

// Binds the calling thread and the OpenMP threads that work for it to one processor each.
//
// Otherwise, Linux often wakes a sleeping thread on the processor of the thread that wakes it. There
// it waits for some milliseconds, so that a call after a pause takes twice as long.
class Team {
 public:
  // Runs `work` with the threads bound to different processors, and restores the affinity of the
  // calling thread afterwards. Does not bind threads if their number differs from the number of
  // processors, or if the user has bound them (OMP_PROC_BIND, GOMP_CPU_AFFINITY).
  template <typename F>
  void Spread(F&& work) {
    if (!known_) Meet();
    cpu_set_t before;
    if (threads_.empty() || sched_getaffinity(0, sizeof before, &before)) return work();
    const int here = sched_getcpu();
    Bind(0, here);
    for (size_t i = 1; i < threads_.size(); ++i) {
      if (threads_[i].processor == here) {
        Bind(threads_[i].id, threads_[i].processor = here_);
        break;
      }
    }
    here_ = here;
    struct Free {
      const cpu_set_t& before;
      ~Free() { sched_setaffinity(0, sizeof before, &before); }
    } free{before};
    work();
  }

 private:
  struct Thread {
    pid_t id = 0;
    int processor = 0;
  };

  void Meet() {
    known_ = true;
    const size_t count = omp_get_max_threads();
    if (count == 1 || count != processors.size() || omp_get_proc_bind()) return;
    threads_.resize(count);
    GOMP_parallel(
        [](void* threads) {
          (*static_cast<std::vector<Thread>*>(threads))[omp_get_thread_num()].id =
              static_cast<pid_t>(syscall(SYS_gettid));
        },
        &threads_, count, 0);
    here_ = processors[0];
    for (size_t i = 1; i < count; ++i) Bind(threads_[i].id, threads_[i].processor = processors[i]);
  }

  static void Bind(pid_t thread, int processor) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(processor, &set);
    sched_setaffinity(thread, sizeof set, &set);  // has no effect where it is forbidden
  }

  bool known_ = false;
  int here_ = 0;  // last processor of the calling thread; the other threads have the others
  std::vector<Thread> threads_;
};

inline thread_local Team team;

// Runs `use(slot)`, on the calling thread alone or on all threads.
template <typename F>
ffi::Error TakeTurn(bool alone, const F& use) {
  pid_t nobody = 0;
  owner.compare_exchange_strong(nobody, getpid());
  if (getpid() != owner) {
    return ffi::Error(ffi::ErrorCode::kFailedPrecondition,
                      "the threads of native kernels do not survive fork(): start worker processes "
                      "with multiprocessing's 'spawn' or 'forkserver'");
  }
  const Threads threads(alone ? 1 : threads_per_call);
  try {
    slots->With([&](Slot& slot) {
      const auto run = [&] { use(slot); };
      alone ? run() : team.Spread(run);
    });
  } catch (const std::exception& error) {
    return ffi::Error::Internal(std::string("native kernel: ") + error.what());
  }
  return ffi::Error::Success();
}

}  // namespace cnn_jax

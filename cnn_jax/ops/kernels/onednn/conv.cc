// Convolution and its two gradients by oneDNN, behind one XLA FFI handler.
//
// Arrays are channels-last and kernels (*window, in / groups, out), in XLA's own buffers, which
// oneDNN reads and writes in place. Only the kernel is copied, into the blocked layout that oneDNN
// asks for, where it asks for one.
//
// A call takes a Slot: the primitives built so far and one block of working memory. There are as
// many slots as calls that the processor can serve with their full number of OpenMP threads
// (usually one). So calls from several host devices or Python threads queue up instead of fighting
// for the cores, a slot that is held needs no lock, and a sum is split in the same way every time.

#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <unordered_map>
#include <vector>

#include "oneapi/dnnl/dnnl.hpp"
#include "xla/ffi/api/ffi.h"

// Of GNU's OpenMP runtime, which oneDNN brings along; no header, so that any compiler will do.
extern "C" {
int omp_get_max_threads();
int omp_get_thread_num();
int omp_get_proc_bind();
void GOMP_parallel(void (*body)(void*), void* data, unsigned threads, unsigned flags);
}

namespace {

namespace ffi = xla::ffi;
using dnnl::memory;

constexpr int kMaxSpatial = 3;
constexpr size_t kMaxPlans = 1024;  // in a slot; when there are more, all are dropped
constexpr size_t kAlign = 64;

enum Op : int64_t { kForward, kInputGrad, kFilterGrad };

// One convolution problem. Only int64_t members, so that it is hashed and compared as bytes.
struct Problem {
  int64_t op, bf16, plain_kernel, ndim, groups, batch, in_features, out_features;
  int64_t in[kMaxSpatial], window[kMaxSpatial], out[kMaxSpatial];
  int64_t strides[kMaxSpatial], dilation[kMaxSpatial], lo[kMaxSpatial], hi[kMaxSpatial];

  bool operator==(const Problem& other) const { return !std::memcmp(this, &other, sizeof *this); }
};

struct ProblemHash {
  size_t operator()(const Problem& p) const {
    uint64_t words[sizeof p / 8], hash = 0;
    std::memcpy(words, &p, sizeof p);
    for (uint64_t word : words) {
      hash = (hash ^ word) * 0x9E3779B97F4A7C15u;
      hash ^= hash >> 32;
    }
    return hash;
  }
};

const dnnl::engine& Engine() {
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

// A primitive with its arguments; from call to call only their addresses change.
class Plan {
 public:
  explicit Plan(const Problem& p) {
    const int n = p.ndim;
    const auto type = p.bf16 ? memory::data_type::bf16 : memory::data_type::f32;
    const auto list = [n](const int64_t* values) { return memory::dims(values, values + n); };
    const auto channels_last = [&](int64_t features, const int64_t* size) {
      constexpr memory::format_tag tags[] = {memory::format_tag::nwc, memory::format_tag::nhwc,
                                             memory::format_tag::ndhwc};
      memory::dims shape = list(size);
      shape.insert(shape.begin(), {p.batch, features});
      return memory::desc(shape, type, tags[n - 1]);
    };
    const auto x = channels_last(p.in_features, p.in);
    const auto y = channels_last(p.out_features, p.out);

    // oneDNN counts the axes of a kernel as ([group,] out, in, *window).
    const int64_t in = p.in_features / p.groups, out = p.out_features / p.groups;
    memory::dims shape = list(p.window), steps(n);
    int64_t step = in * p.out_features;
    for (int i = n; i-- > 0; step *= p.window[i]) steps[i] = step;
    shape.insert(shape.begin(), {out, in});
    steps.insert(steps.begin(), {1, p.out_features});
    if (p.groups > 1) {
      shape.insert(shape.begin(), p.groups);
      steps.insert(steps.begin(), out);
    }
    const memory::desc w(shape, type, steps);
    const memory::desc packed =
        p.plain_kernel ? w : memory::desc(shape, type, memory::format_tag::any);

    auto dilation = list(p.dilation);
    for (auto& d : dilation) --d;  // oneDNN counts the holes
    const auto direct = dnnl::algorithm::convolution_direct;
    dnnl::primitive_attr attr;
    attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    const dnnl::convolution_forward::primitive_desc forward(
        Engine(), dnnl::prop_kind::forward_training, direct, x, packed, y, list(p.strides),
        dilation, list(p.lo), list(p.hi), attr);
    if (p.op == kForward) {
      primitive_ = dnnl::convolution_forward(forward);
      Bind(forward, {DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST}, {x, w, y}, 1,
           forward.weights_desc());
    } else if (p.op == kInputGrad) {
      const dnnl::convolution_backward_data::primitive_desc backward(
          Engine(), direct, x, packed, y, list(p.strides), dilation, list(p.lo), list(p.hi),
          forward, attr);
      primitive_ = dnnl::convolution_backward_data(backward);
      Bind(backward, {DNNL_ARG_DIFF_DST, DNNL_ARG_WEIGHTS, DNNL_ARG_DIFF_SRC}, {y, w, x}, 1,
           backward.weights_desc());
    } else {
      const dnnl::convolution_backward_weights::primitive_desc backward(
          Engine(), direct, x, packed, y, list(p.strides), dilation, list(p.lo), list(p.hi),
          forward, attr);
      primitive_ = dnnl::convolution_backward_weights(backward);
      Bind(backward, {DNNL_ARG_SRC, DNNL_ARG_DIFF_DST, DNNL_ARG_DIFF_WEIGHTS}, {x, y, w}, 2,
           backward.diff_weights_desc());
    }
  }

  const std::string& code() const { return code_; }
  size_t workspace() const { return workspace_; }

  void Run(dnnl::stream& stream, void* const buffers[3], char* workspace) {
    for (int i = 0; i < 3; ++i) user_[i].set_data_handle(buffers[i]);
    scratchpad_.set_data_handle(workspace);
    if (reorder_) packed_.set_data_handle(workspace + packed_offset_);
    if (reorder_ && kernel_ == 1) reorder_.execute(stream, user_[1], packed_);
    primitive_.execute(stream, args_);
    if (reorder_ && kernel_ == 2) reorder_.execute(stream, packed_, user_[2]);
    stream.wait();
  }

 private:
  // `args` and `descs` are in the order of the caller's buffers; the kernel is number `kernel`.
  template <typename PrimitiveDesc>
  void Bind(const PrimitiveDesc& pd, std::vector<int> args, std::vector<memory::desc> descs,
            int kernel, const memory::desc& packed) {
    code_ = pd.impl_info_str();
    kernel_ = kernel;
    for (int i = 0; i < 3; ++i) {
      user_[i] = memory(descs[i], Engine(), nullptr);
      args_[args[i]] = user_[i];
    }
    if (packed != descs[kernel]) {
      packed_ = memory(packed, Engine(), nullptr);
      reorder_ = kernel == 1 ? dnnl::reorder(user_[1], packed_) : dnnl::reorder(packed_, user_[2]);
      args_[args[kernel]] = packed_;
    }
    scratchpad_ = memory(pd.scratchpad_desc(), Engine(), nullptr);
    args_[DNNL_ARG_SCRATCHPAD] = scratchpad_;
    packed_offset_ = (pd.scratchpad_desc().get_size() + kAlign - 1) / kAlign * kAlign;
    workspace_ = packed_offset_ + (reorder_ ? packed.get_size() : 0);
  }

  std::string code_;
  dnnl::primitive primitive_;
  dnnl::reorder reorder_;
  memory user_[3], packed_, scratchpad_;
  std::unordered_map<int, memory> args_;
  int kernel_;
  size_t packed_offset_, workspace_;
};

class Slot {
 public:
  Plan& Find(const Problem& problem) {
    auto found = plans_.find(problem);
    if (found == plans_.end()) {
      if (plans_.size() >= kMaxPlans) plans_.clear();
      found = plans_.emplace(problem, Plan(problem)).first;
    }
    return found->second;
  }

  void Run(const Problem& problem, void* const buffers[3]) {
    Plan& plan = Find(problem);
    if (plan.workspace() > size_) {
      memory_.reset();
      size_ = 0;
      memory_.reset(static_cast<char*>(
          std::aligned_alloc(kAlign, (plan.workspace() + kAlign - 1) / kAlign * kAlign)));
      if (!memory_) throw std::bad_alloc();
      size_ = plan.workspace();
    }
    plan.Run(stream_, buffers, memory_.get());
  }

 private:
  struct Free {
    void operator()(char* p) const { std::free(p); }
  };
  std::unordered_map<Problem, Plan, ProblemHash> plans_;
  std::unique_ptr<char, Free> memory_;
  size_t size_ = 0;
  dnnl::stream stream_{Engine()};
};

// Hands out the slots, the most recently used first.
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

Slots* slots = nullptr;
pid_t owner = 0;
std::vector<int> processors;  // that the process may use

// The OpenMP threads that work for the calling thread, and that thread, each on a processor of its own.
//
// Left alone, Linux often wakes a sleeping thread on the processor of the thread that wakes it, where
// it waits for some milliseconds: a call after a pause takes twice as long.
class Team {
 public:
  // Runs `work` with the threads spread out; the calling thread is free again afterwards. Plainly runs
  // it where the threads are not as many as the processors, or where the user has bound them
  // (OMP_PROC_BIND, GOMP_CPU_AFFINITY).
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
    sched_setaffinity(thread, sizeof set, &set);  // where that is forbidden, all stays as it was
  }

  bool known_ = false;
  int here_ = 0;  // where the calling thread was last; the others have the other processors
  std::vector<Thread> threads_;
};

thread_local Team team;

ffi::Error Convolve(ffi::AnyBuffer a, ffi::AnyBuffer b, ffi::Result<ffi::AnyBuffer> out,
                    ffi::Span<const int64_t> problem) {
  if (getpid() != owner) {
    return ffi::Error(ffi::ErrorCode::kFailedPrecondition,
                      "oneDNN's threads do not survive fork(): start worker processes with "
                      "multiprocessing's 'spawn' or 'forkserver'");
  }
  if (problem.size() * sizeof(int64_t) != sizeof(Problem)) {
    return ffi::Error::InvalidArgument("the problem has the wrong number of entries");
  }
  Problem p;
  std::memcpy(&p, problem.begin(), sizeof p);
  void* const buffers[] = {a.untyped_data(), b.untyped_data(), out->untyped_data()};
  try {
    slots->With([&](Slot& slot) { team.Spread([&] { slot.Run(p, buffers); }); });
  } catch (const std::exception& error) {
    return ffi::Error::Internal(std::string("oneDNN: ") + error.what());
  }
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(CnnJaxConvolve, Convolve,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Attr<ffi::Span<const int64_t>>("problem"));

// To be called once, before the handler: how many calls may run at the same time.
extern "C" void CnnJaxStart(int count) {
  owner = getpid();
  cpu_set_t set;
  CPU_ZERO(&set);
  sched_getaffinity(0, sizeof set, &set);
  for (int i = 0; i < CPU_SETSIZE; ++i) {
    if (CPU_ISSET(i, &set)) processors.push_back(i);
  }
  slots = new Slots(count);  // lives as long as the process: XLA's threads may outlast `main`
}

// Whether oneDNN computes bfloat16 in hardware here; else it emulates.
extern "C" int CnnJaxHasBfloat16() {
  return dnnl::get_effective_cpu_isa() >= dnnl::cpu_isa::avx512_core_bf16;
}

// Writes the name of the code that oneDNN would run for `problem` into `text` and returns 1, or the
// reason why it cannot and returns 0.
extern "C" int CnnJaxDescribe(const int64_t* problem, char* text, int size) {
  Problem p;
  std::memcpy(&p, problem, sizeof p);
  std::string answer;
  bool known = false;
  try {
    answer = Plan(p).code();
    known = true;
  } catch (const std::exception& error) {
    answer = error.what();
  }
  std::strncpy(text, answer.c_str(), size - 1);
  text[size - 1] = 0;
  return known;
}

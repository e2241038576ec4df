// Computes a convolution and its two gradients with oneDNN, behind one XLA FFI handler.
//
// Arrays are channels-last and kernels have shape (*window, in / groups, out). oneDNN reads and
// writes XLA's own buffers in place. Only the kernel is copied, and only if oneDNN asks for a blocked
// layout. A filter gradient over many positions is computed in parts.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "oneapi/dnnl/dnnl.hpp"
#include "engine.h"
#include "instructions.h"
#include "problem.h"
#include "threads.h"

namespace cnn_jax {
namespace {

using dnnl::memory;

constexpr size_t kMaxJobs = 1024;  // per slot; when it is full, all jobs are dropped

// Number of positions that one part of a filter gradient adds up (see `Parts`). The first two are
// bounds for small kernels, where one thread computes a part; the third is for all other kernels.
constexpr int64_t kLeast = 1 << 9, kMostOfTeam = 1 << 14;
constexpr int64_t kSmallKernel = 1 << 16;  // elements
constexpr int64_t kTogether = 64;          // positions of a part of a sequence are a multiple of it

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

// A primitive with its arguments. Only their addresses change from call to call.
class Plan {
 public:
  // kFilterGradPart gives float32 in a layout that oneDNN chooses, or in `layout` if it is given.
  explicit Plan(const Problem& p, const memory::desc* layout = nullptr) {
    const int n = p.ndim;
    constexpr memory::data_type types[] = {memory::data_type::f32, memory::data_type::bf16,
                                           memory::data_type::s8};
    const auto type = types[p.dtype];
    const auto list = [n](const int64_t* values) { return memory::dims(values, values + n); };
    const auto channels_last = [&](int64_t features, const int64_t* size, memory::data_type type) {
      constexpr memory::format_tag tags[] = {memory::format_tag::nwc, memory::format_tag::nhwc,
                                             memory::format_tag::ndhwc};
      memory::dims shape = list(size);
      shape.insert(shape.begin(), {p.batch, features});
      return memory::desc(shape, type, tags[n - 1]);
    };
    const auto x = channels_last(p.in_features, p.in, type);
    const auto y = channels_last(p.out_features, p.out,
                                 p.dtype == kInt8 ? memory::data_type::s32 : type);

    // oneDNN orders the axes of a kernel as ([group,] out, in, *window).
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
    const bool is_part = p.op == kFilterGradPart;
    memory::desc packed(shape, is_part ? memory::data_type::f32 : type, memory::format_tag::any);
    if (p.plain_kernel) packed = w;

    auto dilation = list(p.dilation);
    for (auto& d : dilation) --d;  // oneDNN counts the holes between taps
    const auto direct = dnnl::algorithm::convolution_direct;
    dnnl::primitive_attr attr;
    attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    const dnnl::convolution_forward::primitive_desc forward(
        Engine(), dnnl::prop_kind::forward_training, direct, x,
        is_part ? memory::desc(shape, type, memory::format_tag::any) : packed, y, list(p.strides),
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
          Engine(), direct, x, layout ? *layout : packed, y, list(p.strides), dilation,
          list(p.lo), list(p.hi), forward, attr);
      primitive_ = dnnl::convolution_backward_weights(backward);
      const memory::desc dw = backward.diff_weights_desc();
      Bind(backward, {DNNL_ARG_SRC, DNNL_ARG_DIFF_DST, DNNL_ARG_DIFF_WEIGHTS},
           {x, y, is_part ? dw : w}, 2, dw);
    }
    plain_kernel_ = w;
  }

  const std::string& code() const { return code_; }
  memory::desc kernel() const { return user_[kernel_].get_desc(); }
  const memory::desc& plain_kernel() const { return plain_kernel_; }
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
  // `args` and `descs` are in the order of the caller's buffers. `kernel` is the kernel's index.
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
    packed_offset_ = Aligned(pd.scratchpad_desc().get_size());
    workspace_ = packed_offset_ + (reorder_ ? packed.get_size() : 0);
  }

  std::string code_;
  dnnl::primitive primitive_;
  dnnl::reorder reorder_;
  memory user_[3], packed_, scratchpad_;
  memory::desc plain_kernel_;
  std::unordered_map<int, memory> args_;
  int kernel_;
  size_t packed_offset_, workspace_;
};

// Some of the images, or some rows of one image. The filter gradient of the whole problem is the sum
// of the filter gradients of its parts.
struct Part {
  Problem problem;
  int64_t x, y;  // offsets of its first element in x and in y
};

bool HasSmallKernel(const Problem& p) {
  int64_t size = p.in_features / p.groups * p.out_features;
  for (int i = 0; i < p.ndim; ++i) size *= p.window[i];
  return size <= kSmallKernel;
}

// Returns the parts of a filter gradient, or no parts if its sums are short enough.
//
// oneDNN adds up the products of a thread's positions one after the other in float32. Errors grow
// with the number of positions, and a sum of ones stops growing at 2^24.
std::vector<Part> Parts(const Problem& p) {
  if (p.op != kFilterGrad) return {};
  int64_t x = p.in_features, y = p.out_features, positions = 1;  // per image
  for (int i = 0; i < p.ndim; ++i) x *= p.in[i], y *= p.out[i], positions *= p.out[i];
  const int64_t all = p.batch * positions;
  if (all <= kMost) return {};
  const int64_t most = HasSmallKernel(p)
                           ? std::clamp(all / omp_get_max_threads(), kLeast, kMost)
                           : kMostOfTeam;

  std::vector<Part> parts;
  Problem problem = p;
  problem.op = kFilterGradPart;
  if (positions <= most) {
    const int64_t count = Quotient(p.batch, most / positions);
    const int64_t images = Quotient(p.batch, count);
    for (int64_t i = 0; i < p.batch; i += images) {
      problem.batch = std::min(images, p.batch - i);
      parts.push_back({problem, i * x, i * y});
    }
  } else {
    int axis = 0;  // the outermost one, whose rows are contiguous
    while (axis < p.ndim - 1 && p.in[axis] == 1 && p.out[axis] == 1) ++axis;
    const int64_t n = p.in[axis], outputs = p.out[axis], stride = p.strides[axis];
    const int64_t count = Quotient(outputs, std::max<int64_t>(1, most / (positions / outputs)));
    const int64_t fair = Quotient(outputs, count);
    const int64_t rows = positions == outputs ? Quotient(fair, kTogether) * kTogether : fair;
    problem.batch = 1;
    for (int64_t row = 0; row < outputs; row += rows) {
      problem.out[axis] = std::min(rows, outputs - row);
      const int64_t first = row * stride - p.lo[axis];
      const int64_t end = first + (problem.out[axis] - 1) * stride +
                          (p.window[axis] - 1) * p.dilation[axis] + 1;
      const int64_t from = std::max<int64_t>(first, 0), to = std::min(end, n);
      if (from >= to) continue;  // the part sees only padding
      // A bfloat16 part needs a window without padding (see `_compute_dtype` in __init__.py).
      const int64_t inside = first + Quotient(from - first, stride) * stride;
      if (p.dtype == kBfloat16 && inside + (p.window[axis] - 1) * p.dilation[axis] >= to) return {};
      problem.in[axis] = to - from;
      problem.lo[axis] = from - first;
      problem.hi[axis] = end - to;
      for (int64_t i = 0; i < p.batch; ++i) {
        parts.push_back({problem, i * x + from * (x / n), i * y + row * (y / outputs)});
      }
    }
  }
  if (parts.size() == 1) parts.clear();
  return parts;
}

// The plan of a problem, or the plans of its parts, whose results are added up in double precision.
//
// With a small kernel, a part is too little work to spread over threads. Each thread then computes
// its own share of the parts.
class Job {
 public:
  explicit Job(const Problem& p) : parts_(Parts(p)), bytes_(p.dtype == kBfloat16 ? 2 : 4) {
    if (parts_.empty()) {
      shares_.emplace_back().plans.emplace_back(p);
      workspace_ = shares_[0].plans[0].workspace();
      return;
    }
    std::vector<Problem> problems;  // the distinct problems of the parts
    for (const Part& part : parts_) {
      const auto found = std::find(problems.begin(), problems.end(), part.problem);
      which_.push_back(found - problems.begin());
      if (found == problems.end()) problems.push_back(part.problem);
    }
    shares_.resize(HasSmallKernel(p) ? std::min<size_t>(omp_get_max_threads(), parts_.size()) : 1);
    const Threads threads(shares_.size() > 1 ? 1 : 0);  // each plan of several runs on one thread
    memory::desc layout;
    for (Share& share : shares_) {
      for (const Problem& problem : problems) {
        share.plans.emplace_back(problem, layout.is_zero() ? nullptr : &layout);
        layout = share.plans[0].kernel();
        plan_bytes_ = std::max(plan_bytes_, Aligned(share.plans.back().workspace()));
      }
    }
    sum_ = memory(layout, Engine(), nullptr);
    result_ = memory(shares_[0].plans[0].plain_kernel(), Engine(), nullptr);
    reorder_ = dnnl::reorder(sum_, result_);
    count_ = layout.get_size() / sizeof(float);
    share_bytes_ = plan_bytes_ + Aligned(count_ * sizeof(double)) + Aligned(count_ * sizeof(float));
    workspace_ = shares_.size() * share_bytes_;
  }

  const std::string& code() const { return shares_[0].plans[0].code(); }
  size_t workspace() const { return workspace_; }

  void Run(dnnl::stream& stream, void* const buffers[3], char* workspace) {
    if (parts_.empty()) return shares_[0].plans[0].Run(stream, buffers, workspace);
    const auto each = [&](size_t i) { RunShare(i, buffers, workspace); };
    if (shares_.size() == 1) {
      each(0);
    } else {
      ForEach(shares_.size(), each);
    }
    double* const sums = Sums(workspace);
    for (size_t i = 1; i < shares_.size(); ++i) {
      const double* more = Sums(workspace + i * share_bytes_);
      for (size_t j = 0; j < count_; ++j) sums[j] += more[j];
    }
    float* const sum = Latest(workspace);
    std::copy_n(sums, count_, sum);
    sum_.set_data_handle(sum);
    result_.set_data_handle(buffers[2]);
    reorder_.execute(stream, sum_, result_);
    stream.wait();
  }

 private:
  struct Share {
    std::vector<Plan> plans;
    dnnl::stream stream{Engine()};
  };

  // The workspace of a share holds the workspace of its plans, then the sums over its parts, then the
  // result of its latest part.
  double* Sums(char* share) const { return reinterpret_cast<double*>(share + plan_bytes_); }
  float* Latest(char* share) const {
    return reinterpret_cast<float*>(share + plan_bytes_ + Aligned(count_ * sizeof(double)));
  }

  void RunShare(size_t i, void* const buffers[3], char* workspace) {
    workspace += i * share_bytes_;
    double* const sums = Sums(workspace);
    float* const latest = Latest(workspace);
    std::fill_n(sums, count_, 0.0);
    const size_t end = (i + 1) * parts_.size() / shares_.size();
    for (size_t k = i * parts_.size() / shares_.size(); k < end; ++k) {
      void* const own[] = {static_cast<char*>(buffers[0]) + parts_[k].x * bytes_,
                           static_cast<char*>(buffers[1]) + parts_[k].y * bytes_, latest};
      shares_[i].plans[which_[k]].Run(shares_[i].stream, own, workspace);
      for (size_t j = 0; j < count_; ++j) sums[j] += latest[j];
    }
  }

    std::vector<Part> parts_;
  std::vector<size_t> which_;  // index of each part's plan within a share
  std::vector<Share> shares_;
  dnnl::reorder reorder_;
  memory sum_, result_;
  size_t bytes_, plan_bytes_ = 0, share_bytes_ = 0, count_ = 0, workspace_ = 0;
};

// The jobs of one slot.
class Jobs {
 public:
  Job& Find(const Problem& problem) {
    auto found = jobs_.find(problem);
    if (found == jobs_.end()) {
      if (jobs_.size() >= kMaxJobs) jobs_.clear();
      found = jobs_.emplace(problem, Job(problem)).first;
    }
    return found->second;
  }

  dnnl::stream stream{Engine()};

 private:
  std::unordered_map<Problem, Job, ProblemHash> jobs_;
};

ffi::Error Convolve(ffi::AnyBuffer a, ffi::AnyBuffer b, ffi::Result<ffi::AnyBuffer> out,
                    ffi::Span<const int64_t> problem) {
  if (problem.size() * sizeof(int64_t) != sizeof(Problem)) {
    return ffi::Error::InvalidArgument("the problem has the wrong number of entries");
  }
  Problem p;
  std::memcpy(&p, problem.begin(), sizeof p);
  void* const buffers[] = {a.untyped_data(), b.untyped_data(), out->untyped_data()};
  return TakeTurn(Work(p) < kLeastToShare, [&](Slot& slot) {
    if (!slot.kept) slot.kept = std::make_shared<Jobs>();
    auto& jobs = *static_cast<Jobs*>(slot.kept.get());
    Job& job = jobs.Find(p);
    job.Run(jobs.stream, buffers, slot.Workspace(job.workspace()));
  });
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(CnnJaxConvolve, Convolve,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Attr<ffi::Span<const int64_t>>("problem"));

// Sets how many calls may run at the same time. Must be called once, before the handler runs.
extern "C" void CnnJaxStart(int count) {
  cpu_set_t set;
  CPU_ZERO(&set);
  sched_getaffinity(0, sizeof set, &set);
  for (int i = 0; i < CPU_SETSIZE; ++i) {
    if (CPU_ISSET(i, &set)) processors.push_back(i);
  }
  slots = new Slots(count);  // never freed, because XLA's threads may outlive `main`
}

// Lets `count` calls run at the same time, each on an equal share of the threads. Must be called
// before the handler runs.
extern "C" void CnnJaxDivide(int count) {
  threads_per_call = std::max(1, omp_get_max_threads() / count);
  delete slots;
  slots = new Slots(count);
}

// Returns the id of the process whose calls work, or 0 before the first call.
extern "C" int CnnJaxOwner() { return owner; }

// Returns whether this machine multiplies int8 exactly. Without VNNI, products of pairs are added up
// in 16 bits, and oneDNN halves the kernel so that they fit.
extern "C" int CnnJaxHasInt8() {
  return Has(dnnl::cpu_isa::avx512_core_vnni) || Has(dnnl::cpu_isa::avx2_vnni);
}

// Writes to `text` the name of the implementation that oneDNN would run for `problem` and returns 1.
// If oneDNN cannot compute it, writes the reason and returns 0.
extern "C" int CnnJaxDescribe(const int64_t* problem, char* text, int size) {
  Problem p;
  std::memcpy(&p, problem, sizeof p);
  std::string answer;
  bool known = false;
  try {
    answer = Job(p).code();
    known = true;
  } catch (const std::exception& error) {
    answer = error.what();
  }
  std::strncpy(text, answer.c_str(), size - 1);
  text[size - 1] = 0;
  return known;
}

}  // namespace cnn_jax

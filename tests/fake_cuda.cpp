// Lets a torch without CUDA take a GPU for present, so that FakeTensorMode does what it would do
// on one: gradients, convolutions and random generators go the ways of a GPU. Nothing computes.
#include <ATen/Functions.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/GeneratorImpl.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

namespace {

struct Guard final : c10::impl::NoOpDeviceGuardImpl<c10::kCUDA> {
  // One stream for all: autograd would synchronize different ones by events.
  c10::Stream getStream(c10::Device) const noexcept override {
    return c10::Stream(c10::Stream::DEFAULT, {c10::kCUDA, 0});
  }
};

struct Generator final : c10::GeneratorImpl {
  Generator() : GeneratorImpl({c10::kCUDA, 0}, c10::DispatchKeySet(c10::DispatchKey::CUDA)) {}
  uint64_t seed() override { return seed_; }
  uint64_t current_seed() const override { return seed_; }
  void set_current_seed(uint64_t seed) override { seed_ = seed; }
  uint64_t get_offset() const override { return 0; }
  void set_offset(uint64_t) override {}
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override {
    return at::detail::empty_cpu({16}, at::kByte).getIntrusivePtr();
  }
  void set_state(const c10::TensorImpl&) override {}
  Generator* clone_impl() const override { return new Generator; }

 private:
  uint64_t seed_ = c10::default_rng_seed_val;
};

struct Hooks final : at::CUDAHooksInterface {
  explicit Hooks(at::CUDAHooksArgs) {}
  void init() const override {}
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasCUDA() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  at::Generator getNewGenerator(c10::DeviceIndex) const override {
    return at::make_generator<Generator>();
  }
  // By these a convolution finds cuDNN, and so the memory layout of what it gives.
  bool hasCuDNN() const override { return true; }
  bool compiledWithCuDNN() const override { return true; }
  bool supportsBFloat16ConvolutionWithCuDNNv8() const override { return true; }
  bool supportsDilatedConvolutionWithCuDNN() const override { return true; }
  long versionCuDNN() const override { return 91900; }
  long versionRuntimeCuDNN() const override { return 91900; }
  double batchnormMinEpsilonCuDNN() const override { return 1e-5; }
};

C10_REGISTER_GUARD_IMPL(CUDA, Guard);

}  // namespace

namespace at {
C10_REGISTER_CLASS(CUDAHooksRegistry, CUDAHooks, Hooks)
}

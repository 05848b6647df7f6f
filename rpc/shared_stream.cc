#include "rpc/shared_stream.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <string>

#include "rpc/sockets.h"

namespace lockstep {
namespace {

constexpr uint64_t kOfferMagic = 0x32'4d'48'53'4b'43'4f'4c;  // "LOCKSHM2"
constexpr int kAnswerTimeoutMs = 2000;
constexpr size_t kRingBytes = 1 << 20;  // stays in the cache
// What is copied at a time: the other end starts on it while we copy on. An end that sleeps is not
// woken for less than it wants, up to this much.
constexpr size_t kPartBytes = kRingBytes / 4;
constexpr size_t kLeastLentBytes = 256 << 10;  // copied pages of 4 KiB cost more than a ring
constexpr int kSpins = 200;                    // a few microseconds
constexpr int kLookAtSocketMs = 50;            // how soon a dead peer is noticed
constexpr const char* kNamePrefix = "/lockstep-";

struct Offer {
  uint64_t magic = kOfferMagic;
  char name[56] = {};  // empty: no offer
};

// One direction. Positions only grow; the peer may write anything here, so both ends check them.
struct Ring {
  alignas(64) std::atomic<uint64_t> written;
  alignas(64) std::atomic<uint64_t> read;
  alignas(64) std::atomic<uint32_t> data_events;
  std::atomic<uint32_t> reader_waits;  // for so many bytes; 0: it does not wait
  alignas(64) std::atomic<uint32_t> space_events;
  std::atomic<uint32_t> writer_waits;  // for so much space
  // The writer's process, and a random word in it: who finds it there can read its memory.
  alignas(64) std::atomic<int32_t> writer;
  std::atomic<uint64_t> proof_address;
  std::atomic<uint64_t> proof;
  std::atomic<uint32_t> reader_reaches_writer;
  std::atomic<uint32_t> writer_closed;
  alignas(4096) char bytes[kRingBytes];
};
static_assert(std::atomic<uint64_t>::is_always_lock_free);

struct Region {
  Ring of_dialler;   // dialler writes
  Ring of_acceptor;  // acceptor writes
};

// What stands before everything in a ring: bytes that follow, or that lie in the writer's memory.
struct Record {
  uint64_t bytes = 0;
  uint64_t address = 0;        // 0: they follow
  uint64_t count_address = 0;  // a Lasting's
  int64_t last = 0;
};

uint64_t address_of(const void* object) { return reinterpret_cast<uintptr_t>(object); }

iovec memory_at(uint64_t address, size_t bytes) {
  return {reinterpret_cast<void*>(address), bytes};
}

// Copies from another process, in order. Bits as they are when each byte is read.
bool read_process(pid_t process, const std::array<iovec, 2>& from, const std::array<iovec, 2>& to) {
  const size_t wanted = from[0].iov_len + from[1].iov_len;
  while (true) {
    const ssize_t copied =
        process_vm_readv(process, to.data(), to.size(), from.data(), from.size(), 0);
    if (copied < 0 && errno == EINTR) continue;
    return copied == static_cast<ssize_t>(wanted);
  }
}

void futex_wait(std::atomic<uint32_t>& word, uint32_t seen, int timeout_ms) {
  const timespec timeout{timeout_ms / 1000, (timeout_ms % 1000) * 1'000'000L};
  syscall(SYS_futex, &word, FUTEX_WAIT, seen, &timeout, nullptr, 0);
}

void wake(std::atomic<uint32_t>& events) {
  events.fetch_add(1);
  syscall(SYS_futex, &events, FUTEX_WAKE, 1, nullptr, nullptr, 0);
}

// Wakes who waits for at most `there` bytes.
void wake_waiting(std::atomic<uint32_t>& waits, size_t there, std::atomic<uint32_t>& events) {
  const uint32_t wanted = waits.load();
  if (wanted != 0 && there >= wanted && waits.exchange(0) != 0) wake(events);
}

// A mapping that goes with its owner.
class Mapping {
 public:
  explicit Mapping(int descriptor)
      : address_(mmap(nullptr, sizeof(Region), PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0)) {
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping() {
    if (ok()) munmap(address_, sizeof(Region));
  }
  bool ok() const { return address_ != MAP_FAILED; }
  Region& region() const { return *static_cast<Region*>(address_); }

 private:
  void* address_;
};

// Not all memory is open to other processes: a driver's is not, which GPUs copy from.
bool can_be_lent(const void* memory) {
  char byte = 0;
  return read_process(getpid(), {memory_at(address_of(memory), 1)}, {iovec{&byte, 1}});
}

// 0 where the system has none.
uint64_t random_word() {
  uint64_t word = 0;
  return getrandom(&word, sizeof(word), 0) == sizeof(word) ? word : 0;
}

class SharedStream final : public ByteStream {
 public:
  SharedStream(std::shared_ptr<SocketByteStream> socket, std::unique_ptr<Mapping> mapping,
               bool dialler)
      : socket_(std::move(socket)),
        mapping_(std::move(mapping)),
        out_(dialler ? mapping_->region().of_dialler : mapping_->region().of_acceptor),
        in_(dialler ? mapping_->region().of_acceptor : mapping_->region().of_dialler) {
    out_.writer = getpid();
    out_.proof_address = address_of(&proof_);
    out_.proof = proof_;
  }

  Status read(void* data, size_t bytes, int timeout_ms) override {
    auto* next = static_cast<char*>(data);
    const Deadline deadline = deadline_in(timeout_ms);
    while (bytes > 0) {
      LOCKSTEP_RETURN_IF_ERROR(find_record(timeout_ms, deadline));
      const size_t part = std::min<size_t>(bytes, record_.bytes);
      LOCKSTEP_RETURN_IF_ERROR(record_.address == 0 ? read_ring(next, part, timeout_ms, deadline)
                                                    : read_lent(next, part));
      pass(part);
      next += part;
      bytes -= part;
    }
    return {};
  }

  Status skip(size_t bytes) override {
    while (bytes > 0) {
      LOCKSTEP_RETURN_IF_ERROR(find_record(0, {}));
      const size_t part = std::min<size_t>(bytes, record_.bytes);
      if (record_.address == 0) {
        LOCKSTEP_RETURN_IF_ERROR(ByteStream::skip(part));
      } else {
        pass(part);
      }
      bytes -= part;
    }
    return {};
  }

  // The header goes with the first part of the body.
  Status write(const void* header, size_t header_bytes, const void* body,
               size_t body_bytes) override {
    return write_lasting(header, header_bytes, body, body_bytes, {});
  }

  Status write_lasting(const void* header, size_t header_bytes, const void* body, size_t body_bytes,
                       const Lasting& lasting) override {
    LOCKSTEP_RETURN_IF_ERROR(write_bytes(header, header_bytes, body_bytes == 0, {}));
    const bool lends = lasting.count != nullptr && body_bytes >= kLeastLentBytes &&
                       out_.reader_reaches_writer != 0;
    if (lends && can_be_lent(body)) {
      LOCKSTEP_RETURN_IF_ERROR(
          write_record({body_bytes, address_of(body), address_of(lasting.count), lasting.last}));
      publish();
      return {};
    }
    return write_bytes(body, body_bytes, true, lasting);
  }

  void admit() override { socket_->admit(); }

  bool in_memory() const override { return true; }

  void close() override {
    closed_ = true;
    out_.writer_closed = 1;  // before anything that was lent is freed
    socket_->close();
    for (Ring* ring : {&in_, &out_}) {
      wake(ring->data_events);
      wake(ring->space_events);
    }
  }

 private:
  Status write_bytes(const void* data, size_t bytes, bool publish, const Lasting& lasting) {
    if (bytes == 0) return {};
    LOCKSTEP_RETURN_IF_ERROR(write_record({bytes}));
    return write_ring(data, bytes, publish, lasting);
  }

  Status write_record(const Record& record) {
    return write_ring(&record, sizeof(record), false, {});
  }

  // What lasted too short is never whole in the ring.
  Status write_ring(const void* data, size_t bytes, bool publish, const Lasting& lasting) {
    const auto* next = static_cast<const char*>(data);
    while (bytes > 0) {
      const size_t part = std::min({bytes, kPartBytes, kRingBytes - written_ % kRingBytes});
      LOCKSTEP_RETURN_IF_ERROR(wait_for_space(part));
      std::memcpy(out_.bytes + written_ % kRingBytes, next, part);
      written_ += part;
      next += part;
      bytes -= part;
      if (bytes == 0 && lasting.over()) return Error{"the values were gone before they were sent"};
      if (publish) this->publish();
    }
    return {};
  }

  void publish() {
    out_.written.store(written_);
    wake_waiting(out_.reader_waits, written_ - out_.read.load(), out_.data_events);
  }

  // So that record_ has bytes left.
  Status find_record(int timeout_ms, Deadline deadline) {
    if (record_.bytes > 0) return {};
    LOCKSTEP_RETURN_IF_ERROR(read_ring(&record_, sizeof(record_), timeout_ms, deadline));
    if (!tried_) try_to_reach_writer();
    if (record_.bytes == 0) return Error{"the peer wrote nonsense into the shared memory"};
    return {};
  }

  void pass(size_t bytes) {
    record_.bytes -= bytes;
    if (record_.address != 0) record_.address += bytes;
  }

  Status read_ring(void* data, size_t bytes, int timeout_ms, Deadline deadline) {
    auto* next = static_cast<char*>(data);
    uint64_t position = in_.read.load();
    while (bytes > 0) {
      const size_t part = std::min({bytes, kPartBytes, kRingBytes - position % kRingBytes});
      LOCKSTEP_RETURN_IF_ERROR(wait_for_data(position, part, timeout_ms, deadline));
      std::memcpy(next, in_.bytes + position % kRingBytes, part);
      position += part;
      in_.read.store(position);
      wake_waiting(in_.writer_waits, kRingBytes - (in_.written.load() - position),
                   in_.space_events);
      next += part;
      bytes -= part;
    }
    return {};
  }

  // The peer has set all that this looks at before it wrote its first record.
  void try_to_reach_writer() {
    tried_ = true;
    uint64_t word = 0;
    const iovec remote = memory_at(in_.proof_address, sizeof(word));
    if (!read_process(in_.writer, {remote}, {iovec{&word, sizeof(word)}})) return;
    in_.reader_reaches_writer = word != 0 && word == in_.proof ? 1 : 0;
  }

  Status read_lent(void* data, size_t bytes) {
    int64_t count = 0;
    const std::array<iovec, 2> from = {memory_at(record_.address, bytes),
                                       memory_at(record_.count_address, sizeof(count))};
    const std::array<iovec, 2> to = {iovec{data, bytes}, iovec{&count, sizeof(count)}};
    const bool read = read_process(in_.writer, from, to);
    std::atomic_thread_fence(std::memory_order_acquire);
    if (in_.writer_closed != 0 || !socket_->alive()) {
      return Error{"connection closed by the peer"};
    }
    if (!read) return Error{"the peer lent memory that cannot be read"};
    if (count > record_.last) return Error{"the values were gone before they were read"};
    return {};
  }

  Status wait_for_data(uint64_t position, size_t bytes, int timeout_ms, Deadline deadline) {
    const auto there = [&] { return in_.written.load() - position; };
    LOCKSTEP_RETURN_IF_ERROR(
        wait_until(there, bytes, in_.data_events, in_.reader_waits, timeout_ms, deadline));
    if (there() > kRingBytes) return Error{"the peer wrote nonsense into the shared memory"};
    return {};
  }

  Status wait_for_space(size_t bytes) {
    const auto space = [&] { return kRingBytes - (written_ - out_.read.load()); };
    LOCKSTEP_RETURN_IF_ERROR(wait_until(space, bytes, out_.space_events, out_.writer_waits, 0, {}));
    if (space() > kRingBytes) return Error{"the peer wrote nonsense into the shared memory"};
    return {};
  }

  // Until there() is `bytes` or more, at most until the deadline, which `timeout_ms` has made if it
  // is not 0. What is in the ring is still read after the peer has gone.
  template <class There>
  Status wait_until(const There& there, size_t bytes, std::atomic<uint32_t>& events,
                    std::atomic<uint32_t>& waits, int timeout_ms, Deadline deadline) {
    for (int i = 0; i < kSpins; ++i) {
      if (there() >= bytes) return {};
      __builtin_ia32_pause();
    }
    while (true) {
      if (closed_) return Error{"stream closed here"};
      const uint32_t seen = events.load();
      waits.store(static_cast<uint32_t>(bytes));
      if (there() >= bytes) return {};
      const bool alive = socket_->alive();
      if (there() >= bytes) return {};
      if (!alive) return Error{"connection closed by the peer"};
      if (timeout_ms > 0 && ms_until(deadline) == 0) {
        return Error{fmt::format("silent for {} ms", timeout_ms)};
      }
      futex_wait(events, seen, kLookAtSocketMs);
      if (there() >= bytes) return {};
    }
  }

  const std::shared_ptr<SocketByteStream> socket_;
  const std::unique_ptr<Mapping> mapping_;
  Ring& out_;
  Ring& in_;
  const uint64_t proof_ = random_word();
  uint64_t written_ = 0;  // to the ring of out_, published or not
  Record record_;         // of in_: what is left of it
  bool tried_ = false;    // to reach the writer
  std::atomic<bool> closed_{false};
};

std::string random_name() {
  const uint64_t words[2] = {random_word(), random_word()};
  if (words[0] == 0 || words[1] == 0) return "";
  return fmt::format("{}{:016x}{:016x}", kNamePrefix, words[0], words[1]);
}

// The memory is reserved here: a full /dev/shm must not kill the process later.
std::unique_ptr<Mapping> make_mapping(const std::string& name) {
  const int descriptor = shm_open(name.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (descriptor < 0) return nullptr;
  std::unique_ptr<Mapping> mapping;
  if (posix_fallocate(descriptor, 0, sizeof(Region)) == 0) {
    mapping = std::make_unique<Mapping>(descriptor);
  }
  ::close(descriptor);
  if (mapping != nullptr && mapping->ok()) return mapping;
  shm_unlink(name.c_str());
  return nullptr;
}

std::unique_ptr<Mapping> open_mapping(const std::string& name) {
  if (name.rfind(kNamePrefix, 0) != 0 || name.find('/', 1) != std::string::npos) return nullptr;
  const int descriptor = shm_open(name.c_str(), O_RDWR | O_CLOEXEC, 0);
  if (descriptor < 0) return nullptr;
  struct stat info {};
  std::unique_ptr<Mapping> mapping;
  if (fstat(descriptor, &info) == 0 && info.st_size == static_cast<off_t>(sizeof(Region))) {
    mapping = std::make_unique<Mapping>(descriptor);
  }
  ::close(descriptor);
  return mapping != nullptr && mapping->ok() ? std::move(mapping) : nullptr;
}

}  // namespace

Result<std::shared_ptr<ByteStream>> offer_shared_memory(std::shared_ptr<SocketByteStream> socket,
                                                        bool wanted) {
  Offer offer;
  std::unique_ptr<Mapping> mapping;
  const std::string name = wanted && socket->same_host() ? random_name() : "";
  if (!name.empty()) mapping = make_mapping(name);
  if (mapping != nullptr) name.copy(offer.name, sizeof(offer.name) - 1);
  uint8_t taken = 0;
  Status status = socket->write(&offer, sizeof(offer), nullptr, 0);
  if (status.ok()) status = socket->read(&taken, sizeof(taken), kAnswerTimeoutMs);
  if (mapping != nullptr) shm_unlink(name.c_str());
  LOCKSTEP_RETURN_IF_ERROR(status);
  if (taken == 0 || mapping == nullptr) return std::shared_ptr<ByteStream>(std::move(socket));
  return std::shared_ptr<ByteStream>(
      std::make_shared<SharedStream>(std::move(socket), std::move(mapping), true));
}

Result<std::shared_ptr<ByteStream>> answer_shared_memory(std::shared_ptr<SocketByteStream> socket) {
  Offer offer;
  LOCKSTEP_RETURN_IF_ERROR(socket->read(&offer, sizeof(offer), kAnswerTimeoutMs));
  if (offer.magic != kOfferMagic) return Error{"not a Lockstep stream"};
  const std::string name(offer.name, strnlen(offer.name, sizeof(offer.name)));
  auto mapping = name.empty() ? nullptr : open_mapping(name);
  const uint8_t taken = mapping != nullptr ? 1 : 0;
  LOCKSTEP_RETURN_IF_ERROR(socket->write(&taken, sizeof(taken), nullptr, 0));
  if (mapping == nullptr) return std::shared_ptr<ByteStream>(std::move(socket));
  return std::shared_ptr<ByteStream>(
      std::make_shared<SharedStream>(std::move(socket), std::move(mapping), false));
}

}  // namespace lockstep

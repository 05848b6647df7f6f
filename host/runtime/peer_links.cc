#include "host/runtime/peer_links.h"

#include <fmt/format.h>

#include <chrono>

#include "host/core/check.h"
#include "host/core/digest.h"

namespace lockstep {
namespace {

constexpr uint64_t kGreetingMagic = 0x31'50'45'54'53'4b'43'4c;  // "LCKSTEP1"
constexpr uint32_t kFrameMagic = 0x4d524646;                    // "FFRM"
constexpr int kGreetingTimeoutMs = 2000;

// Both ends are little-endian x86; the wire version fences anything else.
struct Greeting {
  uint64_t magic = kGreetingMagic;
  int32_t wire_version = kWireVersion;
  int32_t reserved = 0;
  uint64_t recipe = 0;
  int64_t from = 0;
  int64_t to = 0;
};

struct FrameHeader {
  uint32_t magic = kFrameMagic;
  uint8_t kind = 0;
  uint8_t level = 0;
  uint16_t reserved = 0;
  int64_t step = 0;
  int32_t slice = 0;
  int32_t first = 0;
  int64_t count = 0;
  uint64_t hash = 0;
};

Status read_greeting(ByteStream& stream, uint64_t recipe, Greeting* greeting) {
  LOCKSTEP_RETURN_IF_ERROR(stream.read(greeting, sizeof(*greeting), kGreetingTimeoutMs));
  if (greeting->magic != kGreetingMagic) return Error{"not a Lockstep node"};
  if (greeting->wire_version != kWireVersion) {
    return Error{
        fmt::format("wire version {}, this node has {}", greeting->wire_version, kWireVersion)};
  }
  if (greeting->recipe != recipe) return Error{"a node of another job"};
  return {};
}

}  // namespace

PeerLinks::PeerLinks(Network& network, uint64_t recipe) : network_(network), recipe_(recipe) {}

PeerLinks::~PeerLinks() { shut_down(); }

Result<int> PeerLinks::listen(const Address& address) {
  LOCKSTEP_ASSIGN(listener_,
                  network_.listen_streams(address, [this](std::shared_ptr<ByteStream> stream) {
                    accepted(std::move(stream));
                  }));
  return listener_->port();
}

void PeerLinks::set_session(SessionId self) {
  const std::lock_guard lock(mutex_);
  self_ = self;
}

// Whatever is not a node of this job is dropped; the job goes on.
void PeerLinks::accepted(std::shared_ptr<ByteStream> stream) {
  Greeting greeting;
  if (!read_greeting(*stream, recipe_, &greeting).ok()) return;
  SessionId self = 0;
  {
    const std::lock_guard lock(mutex_);
    self = self_;
  }
  if (greeting.to != self || greeting.from <= self) return;
  Greeting reply;
  reply.recipe = recipe_;
  reply.from = self;
  reply.to = greeting.from;
  if (!stream->write(&reply, sizeof(reply), nullptr, 0).ok()) return;
  const auto link = add_link(greeting.from, std::move(stream));
  if (link != nullptr) read_frames(link);
}

Status PeerLinks::dial(const Member& member, int timeout_ms) {
  LOCKSTEP_ASSIGN(const Address address, parse_address(member.address, "peer"));
  LOCKSTEP_ASSIGN(auto stream, network_.connect_stream(address, timeout_ms));
  Greeting greeting;
  greeting.recipe = recipe_;
  greeting.from = self_;
  greeting.to = member.session;
  LOCKSTEP_RETURN_IF_ERROR(stream->write(&greeting, sizeof(greeting), nullptr, 0));
  Greeting reply;
  LOCKSTEP_RETURN_IF_ERROR(read_greeting(*stream, recipe_, &reply));
  if (reply.from != member.session) return Error{"another session answers at that address"};
  const auto link = add_link(member.session, std::move(stream));
  if (link == nullptr) return Error{"shutting down"};
  link->reader = std::thread([this, link] { read_frames(link); });
  return {};
}

std::shared_ptr<PeerLinks::Link> PeerLinks::add_link(SessionId peer,
                                                     std::shared_ptr<ByteStream> stream) {
  const std::lock_guard lock(mutex_);
  if (stopping_ || links_.contains(peer)) return nullptr;
  auto link = std::make_shared<Link>();
  link->peer = peer;
  link->stream = std::move(stream);
  link->writer = std::thread([this, link] { write_frames(link); });
  links_[peer] = link;
  changed_.notify_all();
  return link;
}

Status PeerLinks::connect(const View& view, Exchange* exchange, int timeout_ms) {
  for (const Member& member : view.members) {
    if (member.session >= self_) continue;
    const Status dialled = dial(member, timeout_ms);
    if (dialled.ok()) continue;
    return Error{fmt::format("cannot reach node '{}' at {}: {}; check its --advertise address",
                             member.name, member.address, dialled.error().message)};
  }
  std::unique_lock lock(mutex_);
  const auto all_there = [&] {
    if (stopping_) return true;
    for (const Member& member : view.members) {
      if (member.session != self_ && !links_.contains(member.session)) return false;
    }
    return true;
  };
  if (!changed_.wait_for(lock, std::chrono::milliseconds(timeout_ms), all_there)) {
    return Error{fmt::format("not all nodes connected within {} ms", timeout_ms)};
  }
  if (stopping_) return Error{"shutting down"};
  by_member_.assign(view.members.size(), nullptr);
  for (size_t i = 0; i < view.members.size(); ++i) {
    if (view.members[i].session == self_) continue;
    Link* link = links_.at(view.members[i].session).get();
    link->member = static_cast<int>(i);
    by_member_[i] = link;
  }
  exchange_ = exchange;
  changed_.notify_all();
  return {};
}

void PeerLinks::send(int member, const Frame& frame) {
  const std::lock_guard lock(mutex_);
  if (stopping_) return;
  Link* link = by_member_[member];
  link->queue.push_back(frame);
  link->queued.notify_one();
}

void PeerLinks::write_frames(const std::shared_ptr<Link>& link) {
  std::unique_lock lock(mutex_);
  while (true) {
    link->queued.wait(lock, [&] { return stopping_ || link->broken || !link->queue.empty(); });
    if (stopping_ || link->broken) return;
    const Frame frame = link->queue.front();
    link->queue.pop_front();
    lock.unlock();
    const size_t bytes = static_cast<size_t>(frame.count) * sizeof(float);
    FrameHeader header;
    header.kind = static_cast<uint8_t>(frame.kind);
    header.level = static_cast<uint8_t>(frame.subtree.level);
    header.step = frame.step;
    header.slice = frame.slice;
    header.first = frame.subtree.first;
    header.count = frame.count;
    const bool hashed = bytes > 0 && !link->stream->in_memory();
    header.hash = hashed ? xxh3(frame.values, bytes) : 0;
    const Status written = link->stream->write(&header, sizeof(header), frame.values, bytes);
    if (!written.ok()) lost(*link, written.error().message);
    lock.lock();
  }
}

void PeerLinks::read_frames(const std::shared_ptr<Link>& link) {
  {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return stopping_ || (exchange_ != nullptr && link->member >= 0); });
    if (stopping_) return;
  }
  while (true) {
    const Status read = read_frame(*link);
    if (read.ok()) continue;
    lost(*link, read.error().message);
    return;
  }
}

Status PeerLinks::read_frame(Link& link) {
  FrameHeader header;
  LOCKSTEP_RETURN_IF_ERROR(link.stream->read(&header, sizeof(header), 0));
  if (header.magic != kFrameMagic || header.kind < 1 || header.kind > 3) {
    return Error{"garbage where a frame should begin"};
  }
  Frame frame;
  frame.kind = static_cast<FrameKind>(header.kind);
  frame.step = header.step;
  frame.slice = header.slice;
  frame.subtree = {header.first, header.level};
  frame.count = header.count;
  LOCKSTEP_ASSIGN(float* space, exchange_->accept(link.member, frame));
  if (space != nullptr) {
    const size_t bytes = static_cast<size_t>(frame.count) * sizeof(float);
    LOCKSTEP_RETURN_IF_ERROR(link.stream->read(space, bytes, 0));
    if (!link.stream->in_memory() && xxh3(space, bytes) != header.hash) {
      return Error{"a frame arrived with another hash"};
    }
  }
  exchange_->arrived(link.member, frame);
  return {};
}

void PeerLinks::lost(Link& link, const std::string& why) {
  const std::lock_guard lock(mutex_);
  link.broken = true;
  link.queued.notify_all();
  if (!stopping_ && exchange_ != nullptr && link.member >= 0) {
    exchange_->member_lost(link.member, why);
  }
}

void PeerLinks::shut_down() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    changed_.notify_all();
    for (auto& [session, link] : links_) {
      link->stream->close();
      link->queued.notify_all();
    }
  }
  for (auto& [session, link] : links_) {
    if (link->writer.joinable()) link->writer.join();
    if (link->reader.joinable()) link->reader.join();
  }
  listener_.reset();
}

}  // namespace lockstep

#include "host/runtime/peer_links.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "host/core/digest.h"
#include "host/runtime/clock.h"

namespace lockstep {
namespace {

constexpr uint64_t kGreetingMagic = 0x32'50'45'54'53'4b'43'4c;  // "LCKSTEP2"
constexpr uint32_t kFrameMagic = 0x4d524646;                    // "FFRM"
constexpr int kGreetingTimeoutMs = 2000;
constexpr int kDialTimeoutMs = 2000;
constexpr int kRedialMs = 20;
constexpr int kLongestRedialMs = 200;
constexpr size_t kPartBytes = 512 << 10;  // what is read at a time: it stays in the cache
constexpr int kStreamLookMs = 100;        // how often a missing stream is looked after

// Both ends are little-endian x86; the wire version fences anything else.
struct Greeting {
  uint64_t magic = kGreetingMagic;
  int32_t wire_version = kWireVersion;
  int32_t era = 0;
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

FrameHeader header_of(const FrameKey& key, int64_t count) {
  FrameHeader header;
  header.kind = static_cast<uint8_t>(key.kind);
  header.level = static_cast<uint8_t>(key.subtree.level);
  header.step = key.step;
  header.slice = key.slice;
  header.first = key.subtree.first;
  header.count = count;
  return header;
}

Status write_frame(ByteStream& stream, const Frame& frame) {
  const size_t bytes = static_cast<size_t>(frame.count) * sizeof(float);
  FrameHeader header = header_of(frame.key, frame.count);
  const bool hashed = bytes > 0 && !stream.in_memory();
  header.hash = hashed ? frame.hash->of(frame.values, frame.count) : 0;
  if (!frame.lasting) return stream.write(&header, sizeof(header), frame.values, bytes);
  if (frame.lasting->over()) {  // nobody needs the values, and the hash may be that of others
    header = header_of(present_key(frame.key.step), 0);
    return stream.write(&header, sizeof(header), nullptr, 0);
  }
  return stream.write_lasting(&header, sizeof(header), frame.values, bytes, *frame.lasting);
}

}  // namespace

PeerLinks::PeerLinks(Network& network, PeerLinksOptions options)
    : network_(network), options_(std::move(options)) {}

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

void PeerLinks::close_others(const View& view) {
  std::unique_lock lock(mutex_);
  std::vector<PeerPtr> gone;
  for (const auto& [session, peer] : peers_) {
    if (view.index_of(session) < 0 || peer->era != view.era) gone.push_back(peer);
  }
  for (const PeerPtr& peer : gone) {
    peer->gone = true;
    drop_queue(*peer);
    if (peer->stream) peer->stream->close();
    peer->changed.notify_all();
    peers_.erase(peer->session);
  }
  changed_.notify_all();
  changed_.wait(lock, [&] {
    return std::none_of(gone.begin(), gone.end(),
                        [](const PeerPtr& peer) { return peer->reading; });
  });
  former_.insert(former_.end(), gone.begin(), gone.end());
  // A dialler may still wait for a machine that is away; it is joined later.
  std::erase_if(former_, [&](const PeerPtr& peer) {
    if (peer->threads > 0) return false;
    join_threads(*peer);
    return true;
  });
}

void PeerLinks::connect(const View& view, FrameSink* sink) {
  const std::lock_guard lock(mutex_);
  if (sink_ != sink) sink_ = sink;  // streams that are up read it without the lock
  for (const Member& member : view.members) {
    if (member.session == self_ || peers_.contains(member.session)) continue;
    const auto address = parse_address(member.address, "peer");
    auto peer = std::make_shared<Peer>();
    peer->session = member.session;
    if (address.ok()) peer->address = *address;
    peer->era = view.era;
    peer->down_since_ms = monotonic_ms();
    peers_[member.session] = peer;
    peer->threads = 1;
    peer->writer = std::thread([this, peer] {
      write_frames(peer);
      --peer->threads;
    });
    if (member.session > self_) continue;
    ++peer->threads;
    peer->dialler = std::thread([this, peer] {
      keep_dialled(peer);
      --peer->threads;
    });
  }
  changed_.notify_all();
}

void PeerLinks::join_threads(Peer& peer) {
  if (peer.writer.joinable()) peer.writer.join();
  if (peer.dialler.joinable()) peer.dialler.join();
}

// Whatever is not a member of this job's view is dropped; the job goes on.
void PeerLinks::accepted(std::shared_ptr<ByteStream> stream) {
  Greeting greeting;
  if (!read_greeting(*stream, options_.recipe, &greeting).ok()) return;
  SessionId self = 0;
  {
    const std::lock_guard lock(mutex_);
    self = self_;
  }
  if (greeting.to != self || greeting.from <= self) return;
  const PeerPtr peer = wait_for_peer(greeting.from, greeting.era);
  if (peer == nullptr) return;
  stream->admit();
  Greeting reply;
  reply.recipe = options_.recipe;
  reply.era = greeting.era;
  reply.from = self;
  reply.to = greeting.from;
  if (!stream->write(&reply, sizeof(reply), nullptr, 0).ok()) return;
  serve(peer, std::move(stream));
}

// The other end may have heard of the view before this one.
PeerLinks::PeerPtr PeerLinks::wait_for_peer(SessionId session, int era) {
  std::unique_lock lock(mutex_);
  const auto known = [&] {
    const auto found = peers_.find(session);
    return found != peers_.end() && found->second->era == era;
  };
  changed_.wait_for(lock, std::chrono::milliseconds(kGreetingTimeoutMs / 2),
                    [&] { return stopping_ || known(); });
  return !stopping_ && known() ? peers_.at(session) : nullptr;
}

void PeerLinks::keep_dialled(const PeerPtr& peer) {
  int pause_ms = kRedialMs;
  while (true) {
    auto stream = dial(*peer);
    if (stream.ok()) {
      pause_ms = kRedialMs;
      serve(peer, std::move(stream).value());
    }
    std::unique_lock lock(mutex_);
    if (!stream.ok()) peer->why_down = stream.error().message;
    peer->changed.wait_for(lock, std::chrono::milliseconds(pause_ms),
                           [&] { return stopping_ || peer->gone; });
    if (stopping_ || peer->gone) return;
    pause_ms = std::min(pause_ms * 2, kLongestRedialMs);
  }
}

Result<std::shared_ptr<ByteStream>> PeerLinks::dial(const Peer& peer) {
  LOCKSTEP_ASSIGN(auto stream, network_.connect_stream(peer.address, kDialTimeoutMs));
  Greeting greeting;
  greeting.recipe = options_.recipe;
  greeting.era = peer.era;
  greeting.from = self_;
  greeting.to = peer.session;
  LOCKSTEP_RETURN_IF_ERROR(stream->write(&greeting, sizeof(greeting), nullptr, 0));
  Greeting reply;
  LOCKSTEP_RETURN_IF_ERROR(read_greeting(*stream, options_.recipe, &reply));
  if (reply.from != peer.session) return Error{"another session answers at that address"};
  return stream;
}

// Reads until the stream breaks. A new stream takes the place of one that has not broken yet.
void PeerLinks::serve(const PeerPtr& peer, std::shared_ptr<ByteStream> stream) {
  {
    std::unique_lock lock(mutex_);
    if (peer->stream) peer->stream->close();
    changed_.wait(lock, [&] { return !peer->reading || stopping_ || peer->gone; });
    if (stopping_ || peer->gone) return;
    peer->stream = stream;
    peer->reading = true;
    drop_queue(*peer);
    peer->changed.notify_all();
  }
  sink_->connected(peer->session);
  Status status;
  while (status.ok()) status = read_frame(*peer, *stream);
  broken(*peer, stream, status.error().message);
  const std::lock_guard lock(mutex_);
  peer->reading = false;
  changed_.notify_all();
}

Status PeerLinks::read_frame(const Peer& peer, ByteStream& stream) {
  FrameHeader header;
  LOCKSTEP_RETURN_IF_ERROR(stream.read(&header, sizeof(header), 0));
  constexpr int64_t kMostValues = int64_t{1} << 40;
  if (header.magic != kFrameMagic || header.kind < 1 ||
      header.kind > static_cast<uint8_t>(FrameKind::want_state) || header.count < 0 ||
      header.count > kMostValues) {
    return Error{"garbage where a frame should begin"};
  }
  const FrameKey key{
      static_cast<FrameKind>(header.kind), header.step, header.slice, {header.first, header.level}};
  const size_t bytes = static_cast<size_t>(header.count) * sizeof(float);
  LOCKSTEP_ASSIGN(float* space, sink_->accept(peer.session, key, header.count));
  if (space == nullptr) {
    LOCKSTEP_RETURN_IF_ERROR(stream.skip(bytes));
    if (is_question(key.kind)) sink_->arrived(peer.session, key, nullptr);
    return {};
  }
  const Status status = stream.in_memory() ? stream.read(space, bytes, 0)
                                           : read_hashed(stream, key, space, bytes, header.hash);
  if (!status.ok()) {
    sink_->gave_up(peer.session, key, space);
    return status;
  }
  path_of(stream).received_bytes += static_cast<int64_t>(bytes);
  sink_->arrived(peer.session, key, space);
  return {};
}

// Whoever waits for the values sees that they come, on a slow network too.
Status PeerLinks::read_hashed(ByteStream& stream, const FrameKey& key, float* values, size_t bytes,
                              uint64_t expected) {
  Xxh3 hash;
  auto* next = reinterpret_cast<char*>(values);
  while (bytes > 0) {
    const size_t part = std::min(bytes, kPartBytes);
    LOCKSTEP_RETURN_IF_ERROR(stream.read(next, part, 0));
    hash.update(next, part);
    next += part;
    bytes -= part;
    if (bytes > 0) sink_->part_arrived(key);
  }
  if (hash.value() != expected) return Error{"a frame arrived with another hash"};
  return {};
}

NodeGauges::Path& PeerLinks::path_of(const ByteStream& stream) const {
  return stream.in_memory() ? options_.gauges->memory : options_.gauges->network;
}

void PeerLinks::drop_queue(Peer& peer) {
  options_.gauges->frames_waiting -= static_cast<int64_t>(peer.queue.size());
  peer.queue.clear();
}

void PeerLinks::send(SessionId to, Frame frame) {
  const std::lock_guard lock(mutex_);
  const auto found = peers_.find(to);
  if (stopping_ || found == peers_.end() || found->second->stream == nullptr) return;
  Peer& peer = *found->second;
  // A peer that asks again while its answer waits for a slow link gets it once.
  const bool waits = std::any_of(peer.queue.begin(), peer.queue.end(),
                                 [&](const Frame& other) { return other.key == frame.key; });
  if (waits) return;
  peer.queue.push_back(std::move(frame));
  ++options_.gauges->frames_waiting;
  peer.changed.notify_all();
}

void PeerLinks::write_frames(const PeerPtr& peer) {
  std::unique_lock lock(mutex_);
  while (true) {
    peer->changed.wait_for(lock, std::chrono::milliseconds(kStreamLookMs), [&] {
      return stopping_ || peer->gone || (peer->stream && !peer->queue.empty());
    });
    if (stopping_ || peer->gone) return;
    if (peer->stream == nullptr) {
      if (monotonic_ms() - peer->down_since_ms < options_.unreachable_ms) continue;
      peer->down_since_ms = monotonic_ms();
      const std::string why = peer->why_down;
      lock.unlock();
      if (options_.unreachable) options_.unreachable(peer->session, why);
      lock.lock();
      continue;
    }
    if (peer->queue.empty()) continue;
    const Frame frame = std::move(peer->queue.front());
    peer->queue.pop_front();
    --options_.gauges->frames_waiting;
    const auto stream = peer->stream;
    lock.unlock();
    const Status written = write_frame(*stream, frame);
    if (!written.ok()) broken(*peer, stream, written.error().message);
    path_of(*stream).sent_bytes += frame.count * static_cast<int64_t>(sizeof(float));
    lock.lock();
  }
}

void PeerLinks::broken(Peer& peer, const std::shared_ptr<ByteStream>& stream,
                       const std::string& why) {
  stream->close();
  const std::lock_guard lock(mutex_);
  if (peer.stream != stream) return;
  peer.stream.reset();
  drop_queue(peer);
  peer.why_down = why;
  peer.down_since_ms = monotonic_ms();
  peer.changed.notify_all();
}

void PeerLinks::shut_down() {
  {
    std::unique_lock lock(mutex_);
    stopping_ = true;
    for (const auto& [session, peer] : peers_) {
      if (peer->stream) peer->stream->close();
      peer->changed.notify_all();
      former_.push_back(peer);
    }
    peers_.clear();
    changed_.notify_all();
    changed_.wait(lock, [&] {
      return std::none_of(former_.begin(), former_.end(),
                          [](const PeerPtr& peer) { return peer->reading; });
    });
  }
  for (const PeerPtr& peer : former_) join_threads(*peer);
  former_.clear();
  listener_.reset();
}

}  // namespace lockstep

#include "tests/sim/network.h"

#include "host/core/planted.h"
#include "tests/sim/sim_node.h"

namespace lockstep::sim {

int64_t Network::delay() {
  const int64_t usual = world_.setting.message_us;
  if (world_.random.chance(2)) return world_.random.between(usual, 30 * usual);
  return world_.random.between(usual / 4, 2 * usual);
}

bool Network::is_cut(SessionId a, SessionId b) const {
  const auto found = cuts_.find(unordered(a, b));
  return found != cuts_.end() && found->second > world_.now_us();
}

int64_t Network::silent_for(SessionId from, SessionId to) const {
  const auto found = silences_.find({from, to});
  return found == silences_.end() ? 0 : std::max<int64_t>(0, found->second - world_.now_us());
}

void Network::cut(SessionId a, SessionId b, int64_t until_us) {
  cuts_[unordered(a, b)] = until_us;
  for (const auto& [id, weak] : streams_) {
    const auto stream = weak.lock();
    if (!stream) continue;
    const Pair ends = unordered(stream->sides[0].session, stream->sides[1].session);
    if (ends != unordered(a, b)) continue;
    for (int side = 0; side < 2; ++side) {
      const auto node = world_.node_of(stream->sides[side].session);
      if (node) node->post(delay(), [node, stream] { node->stream_closed(stream); });
    }
  }
}

void Network::silence(SessionId from, SessionId to, int64_t until_us) {
  silences_[{from, to}] = until_us;
}

void Network::dial(const std::shared_ptr<SimNode>& from, SessionId to) {
  const SessionId self = from->session();
  const int era = from->era();
  world_.after(delay(), [this, from, self, to, era] {
    const auto target = world_.node_of(to);
    const bool reachable =
        target && !is_cut(self, to) && silent_for(self, to) == 0 && silent_for(to, self) == 0;
    if (!reachable) {
      from->post(world_.random.between(5, 200) * kMs, [from, to] { from->dial_failed(to); });
      return;
    }
    target->post(0, [this, from, target, self, to, era] {
      if (!from->alive() || !target->accepts_dial(self, era)) {
        from->post(delay() + world_.random.between(5, 50) * kMs,
                   [from, to] { from->dial_failed(to); });
        return;
      }
      auto stream = std::make_shared<Stream>();
      stream->id = ++ids_;
      stream->era = era;
      stream->sides[0].session = self;
      stream->sides[1].session = to;
      streams_[stream->id] = stream;
      // Nothing that is sent on it arrives before the word that it was taken.
      const int64_t answer_us = delay();
      stream->sides[1].last_arrival_us = world_.now_us() + answer_us;
      target->stream_open(stream);
      from->post(answer_us, [this, from, stream] {
        if (from->era() != stream->era) {
          from->dial_failed(stream->sides[1].session);
          close(stream, from->session());
          return;
        }
        from->stream_open(stream);
      });
    });
  });
}

void Network::send(const std::shared_ptr<Stream>& stream, SessionId from, const FrameKey& key) {
  const int side = stream->side_of(from);
  if (stream->sides[side].closed) return;
  stream->sides[side].queue.push_back(key);
  if (stream->sides[side].queue.size() > 400) world_.fail("a stream's queue grows without end");
  pump(stream, side);
}

void Network::pump(const std::shared_ptr<Stream>& stream, int side) {
  Stream::Side& sender = stream->sides[side];
  if (sender.sending || sender.queue.empty() || sender.closed) return;
  const auto node = world_.node_of(sender.session);
  if (!node) return;
  sender.sending = true;
  // Sometimes the way is clogged: what waits behind may no longer be there when its turn comes.
  const int64_t usual = world_.setting.message_us;
  const int64_t wait_us = world_.random.chance(2)
                              ? world_.random.between(usual, std::min(20 * kMs, 50 * usual))
                              : world_.random.between(1, usual / 2);
  node->post(wait_us, [this, node, stream, side] {
    Stream::Side& self = stream->sides[side];
    self.sending = false;
    if (self.closed || self.queue.empty()) return;
    const FrameKey key = self.queue.front();
    self.queue.pop_front();
    auto values = node->values_of(key, stream->sides[1 - side].session);
    if (values) {
      deliver(stream, side, key, std::move(*values));
    } else if (!is_of_state(key.kind) && !planted(Bug::begun_unsaid)) {
      deliver(stream, side, present_key(key.step), {});
    }
    pump(stream, side);
  });
}

// First the header, then the values: between them the stream may break.
void Network::deliver(const std::shared_ptr<Stream>& stream, int side, const FrameKey& key,
                      std::vector<float> values) {
  Stream::Side& sender = stream->sides[side];
  const SessionId to = stream->sides[1 - side].session;
  const int64_t quiet = silent_for(sender.session, to);
  const int64_t header_us = std::max(sender.last_arrival_us + 1, world_.now_us() + delay() + quiet);
  const int64_t body_us = header_us + world_.random.between(1, world_.setting.message_us);
  sender.last_arrival_us = body_us;
  const auto arrive = [this, stream, to](auto what) {
    const auto node = world_.node_of(to);
    if (!node) return;
    node->post(0, [stream, node, what] {
      if (!stream->sides[stream->side_of(node->session())].closed) what(*node);
    });
  };
  world_.after(header_us - world_.now_us(), [arrive, stream, key] {
    arrive([stream, key](SimNode& node) { node.header(stream, key); });
  });
  world_.after(body_us - world_.now_us(), [arrive, stream, key, values = std::move(values)] {
    arrive([stream, key, values](SimNode& node) { node.body(stream, key, values); });
  });
}

void Network::close(const std::shared_ptr<Stream>& stream, SessionId by) {
  Stream::Side& self = stream->sides[stream->side_of(by)];
  if (self.closed) return;
  self.closed = true;
  self.queue.clear();
  const SessionId other = stream->sides[1 - stream->side_of(by)].session;
  world_.after(delay(), [this, stream, other] {
    const auto node = world_.node_of(other);
    if (node) node->post(0, [node, stream] { node->stream_closed(stream); });
  });
}

}  // namespace lockstep::sim

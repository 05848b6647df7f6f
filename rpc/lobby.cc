#include "rpc/lobby.h"

#include <netinet/in.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <iterator>
#include <optional>
#include <utility>

#include "host/core/files.h"
#include "rpc/sockets.h"

namespace lockstep {
namespace {

constexpr const char* kNoTls = "it does not speak TLS";
constexpr const char* kClosed = "it closed the connection during the handshake of TLS";
constexpr const char* kSlow = "it did not finish the handshake of TLS in time";
constexpr const char* kTooMany = "too many connections of its address have not said who they are";

constexpr int kMaxOrigins = 4096;  // before those that have spent nothing any more are forgotten
constexpr int kTryMs = 5;          // between looks at the budget
constexpr int kEvents = 64;

// A record's header and the header of the handshake message in it.
constexpr int kRecordHeaderBytes = 5;
constexpr int kHeaderBytes = 9;
constexpr int kMaxRecordBytes = 1 << 14;
constexpr int kMaxHelloBytes = 1 << 17;

// The bytes of the first record, header and all; 0 where a ClientHello does not begin like this.
int record_bytes(const unsigned char (&header)[kHeaderBytes]) {
  const int record = header[3] << 8 | header[4];
  const int message = header[6] << 16 | header[7] << 8 | header[8];
  const bool is_handshake = header[0] == 22 && header[1] == 3;
  const bool is_hello = header[5] == 1 && message <= kMaxHelloBytes;
  if (!is_handshake || !is_hello || record <= 4 || record > kMaxRecordBytes) return 0;
  return kRecordHeaderBytes + record;
}

// Only then is the socket readable: bytes that drip wake nobody.
void wake_from(int descriptor, int bytes) {
  static_cast<void>(setsockopt(descriptor, SOL_SOCKET, SO_RCVLOWAT, &bytes, sizeof(bytes)));
}

bool has_gone(int descriptor) {
  pollfd state{descriptor, POLLRDHUP, 0};
  return ::poll(&state, 1, 0) > 0;
}

}  // namespace

Origin origin_of(const sockaddr_storage& peer) {
  if (peer.ss_family == AF_INET) {
    const auto& v4 = reinterpret_cast<const sockaddr_in&>(peer);
    return 0xffff'0000'0000 | ntohl(v4.sin_addr.s_addr);
  }
  if (peer.ss_family != AF_INET6) return 0;
  const in6_addr& v6 = reinterpret_cast<const sockaddr_in6&>(peer).sin6_addr;
  Origin origin = 0;
  if (IN6_IS_ADDR_V4MAPPED(&v6)) {
    for (int i = 10; i < 16; ++i) origin = origin << 8 | v6.s6_addr[i];
  } else {
    for (int i = 0; i < 8; ++i) origin = origin << 8 | v6.s6_addr[i];
  }
  return origin;
}

double HandshakeBudget::left_of(const Spent& spent, Deadline now) const {
  const double seconds = std::chrono::duration<double>(now - spent.at).count();
  return std::max(0.0, spent.handshakes - per_second_ * seconds);
}

bool HandshakeBudget::take(Origin origin, Deadline now) {
  const std::lock_guard lock(mutex_);
  if (spent_.size() > kMaxOrigins) {
    std::erase_if(spent_, [&](const auto& entry) { return left_of(entry.second, now) == 0; });
  }
  Spent& spent = spent_[origin];
  spent = {left_of(spent, now), now};
  if (spent.handshakes + 1 > burst_) return false;
  ++spent.handshakes;
  return true;
}

void HandshakeBudget::give_back(Origin origin) {
  const std::lock_guard lock(mutex_);
  const auto found = spent_.find(origin);
  if (found == spent_.end()) return;
  found->second.handshakes = std::max(0.0, found->second.handshakes - 1);
}

Result<std::unique_ptr<Lobby>> Lobby::make(Options options, int listener, HandshakeBudget& budget) {
  std::unique_ptr<Lobby> lobby(new Lobby(options, budget));
  lobby->epoll_ = epoll_create1(EPOLL_CLOEXEC);
  lobby->waking_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (!lobby->watch(listener, EPOLLIN, nullptr) ||
      !lobby->watch(lobby->waking_, EPOLLIN, nullptr)) {
    return Error{errno_text()};
  }
  return lobby;
}

Lobby::~Lobby() {
  for (const Guest& guest : guests_) ::close(guest.descriptor);
  for (const Leaver& leaver : leavers_) ::close(leaver.descriptor);
  if (waking_ >= 0) ::close(waking_);
  if (epoll_ >= 0) ::close(epoll_);
}

bool Lobby::watch(int descriptor, uint32_t events, Guest* guest) const {
  epoll_event event{};
  event.events = events;
  event.data.ptr = guest;
  return epoll_ctl(epoll_, EPOLL_CTL_ADD, descriptor, &event) == 0;
}

void Lobby::enter(int descriptor, const sockaddr_storage& peer) {
  make_room();
  const Origin origin = origin_of(peer);
  guests_.push_back({descriptor, peer, origin, deadline_in(options_.timeout_ms), kHeaderBytes});
  ++waiting_of_[origin];
  const auto place = std::prev(guests_.end());
  place->place = place;
  const auto left = leavers_.size();
  look(*place);
  if (leavers_.size() > left) return;
  wake_from(descriptor, place->wanted);
  // Each segment is told of once, whatever is done about it.
  place->watched = watch(descriptor, EPOLLIN | EPOLLRDHUP | EPOLLET, &*place);
  if (!place->watched) leave(place, kTooMany);
}

// For one more.
void Lobby::make_room() {
  if (guests_.size() < static_cast<size_t>(options_.max_waiting)) return;
  const auto most = std::max_element(
      waiting_of_.begin(), waiting_of_.end(),
      [](const auto& one, const auto& other) { return one.second < other.second; });
  const auto oldest = std::find_if(guests_.begin(), guests_.end(),
                                   [&](const Guest& guest) { return guest.origin == most->first; });
  leave(oldest, kTooMany);
}

void Lobby::look(Guest& guest) {
  int held = 0;
  if (ioctl(guest.descriptor, FIONREAD, &held) != 0) return leave(guest.place, kClosed);
  if (held >= kHeaderBytes && guest.wanted == kHeaderBytes) {
    unsigned char header[kHeaderBytes];
    const auto peeked = recv(guest.descriptor, header, sizeof(header), MSG_PEEK | MSG_DONTWAIT);
    if (peeked != kHeaderBytes) return leave(guest.place, kClosed);
    const int wanted = record_bytes(header);
    if (wanted == 0) return leave(guest.place, kNoTls);
    guest.wanted = wanted;
    if (held < guest.wanted) wake_from(guest.descriptor, guest.wanted);
  }
  if (has_gone(guest.descriptor)) return leave(guest.place, kClosed);
  if (held < guest.wanted || guest.ready) return;
  if (budget_.take(guest.origin, std::chrono::steady_clock::now())) {
    return leave(guest.place, nullptr);
  }
  guest.ready = true;
  ++ready_;
}

void Lobby::leave(Place guest, const char* why) {
  if (guest->watched) epoll_ctl(epoll_, EPOLL_CTL_DEL, guest->descriptor, nullptr);
  if (guest->ready) --ready_;
  if (why == nullptr) wake_from(guest->descriptor, 1);
  if (--waiting_of_[guest->origin] == 0) waiting_of_.erase(guest->origin);
  leavers_.push_back({guest->descriptor, guest->peer, guest->until, why});
  guests_.erase(guest);
}

// Those that wait for the budget.
void Lobby::try_again() {
  const auto now = std::chrono::steady_clock::now();
  if (ready_ == 0 || now < next_try_) return;
  next_try_ = now + std::chrono::milliseconds(kTryMs);
  std::optional<Origin> spent;  // asked once, mostly: a flood comes from one origin
  for (auto guest = guests_.begin(); guest != guests_.end();) {
    const auto next = std::next(guest);
    if (guest->ready && guest->origin != spent) {
      if (budget_.take(guest->origin, now)) {
        leave(guest, nullptr);
      } else {
        spent = guest->origin;
      }
    }
    guest = next;
  }
}

void Lobby::end_late() {
  const auto now = std::chrono::steady_clock::now();
  while (!guests_.empty() && guests_.front().until <= now) leave(guests_.begin(), kSlow);
}

int Lobby::timeout_ms() const {
  if (!leavers_.empty()) return 0;
  if (guests_.empty()) return -1;
  const int left_ms = ms_until(guests_.front().until);
  return ready_ > 0 ? std::min(left_ms, kTryMs) : left_ms;
}

std::vector<Lobby::Leaver> Lobby::wait() {
  epoll_event events[kEvents];
  const int count = epoll_wait(epoll_, events, kEvents, timeout_ms());
  for (int i = 0; i < count; ++i) {
    if (auto* guest = static_cast<Guest*>(events[i].data.ptr)) look(*guest);
  }
  try_again();
  end_late();
  return std::exchange(leavers_, {});
}

void Lobby::wake() {
  const uint64_t one = 1;
  static_cast<void>(!::write(waking_, &one, sizeof(one)));
}

}  // namespace lockstep

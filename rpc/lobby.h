// Where connections wait until they have begun to speak TLS. There each costs a descriptor: no
// thread, no memory of OpenSSL's and no arithmetic with keys, which strangers could make dear.
#pragma once

#include <sys/socket.h>

#include <chrono>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "host/core/result.h"

namespace lockstep {

using Deadline = std::chrono::steady_clock::time_point;

// Where a connection comes from: an IPv4 address, or the network (/64) of an IPv6 address.
using Origin = uint64_t;
Origin origin_of(const sockaddr_storage& peer);

// How many handshakes may fail for one origin: `burst` at once, and `per_second` from then on.
// Those that succeed are given back, so that any number of nodes can come from one address. Any
// thread.
class HandshakeBudget {
 public:
  HandshakeBudget(int per_second, int burst) : per_second_(per_second), burst_(burst) {}
  // Whether one more may begin.
  bool take(Origin origin, Deadline now);
  void give_back(Origin origin);

 private:
  struct Spent {
    double handshakes = 0;
    Deadline at = {};
  };
  double left_of(const Spent& spent, Deadline now) const;

  const double per_second_;
  const double burst_;
  std::mutex mutex_;
  std::unordered_map<Origin, Spent> spent_;  // guarded by mutex_
};

// Guests are let through once their first record is there, is a ClientHello, and their origin has
// budget left. All others are sent away: those that say something else at once, the slow ones at
// their deadline, and where too many wait the oldest of the origin that has most of them. All
// functions but wake() are for one thread.
class Lobby {
 public:
  struct Options {
    int max_waiting = 256;
    int timeout_ms = 5'000;
  };
  // One whose time in the lobby is over. The descriptor is the caller's from here on.
  struct Leaver {
    int descriptor = -1;
    sockaddr_storage peer = {};
    Deadline until = {};        // when the handshake must be done
    const char* why = nullptr;  // it was sent away; null: it may begin the handshake
  };

  // Watches the descriptor `listener`. It and the budget outlive the lobby.
  static Result<std::unique_ptr<Lobby>> make(Options options, int listener,
                                             HandshakeBudget& budget);
  // Closes what waits.
  ~Lobby();
  Lobby(const Lobby&) = delete;
  Lobby& operator=(const Lobby&) = delete;

  // Takes a connection in, and its descriptor.
  void enter(int descriptor, const sockaddr_storage& peer);
  // Waits until the listener has a connection, a guest leaves, or wake() was called.
  std::vector<Leaver> wait();
  // From now on wait() returns at once. Any thread.
  void wake();

 private:
  struct Guest;
  using Place = std::list<Guest>::iterator;
  struct Guest {
    int descriptor;
    sockaddr_storage peer;
    Origin origin;
    Deadline until;
    int wanted;            // bytes that must be there before it is looked at again
    bool watched = false;  // by epoll_
    bool ready = false;    // but for the budget
    Place place = {};      // its own
  };

  Lobby(Options options, HandshakeBudget& budget) : options_(options), budget_(budget) {}
  bool watch(int descriptor, uint32_t events, Guest* guest) const;
  void make_room();
  void look(Guest& guest);
  void leave(Place guest, const char* why);
  void try_again();
  void end_late();
  int timeout_ms() const;

  const Options options_;
  HandshakeBudget& budget_;
  int epoll_ = -1;
  int waking_ = -1;
  std::list<Guest> guests_;  // by age
  std::unordered_map<Origin, int> waiting_of_;
  int ready_ = 0;           // of the guests
  Deadline next_try_ = {};  // for those that are ready
  std::vector<Leaver> leavers_;
};

}  // namespace lockstep

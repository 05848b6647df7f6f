// A node's process: carries out what its two machines say, on the toy model and simulated streams.
// Its parts run beside each other as in a real one: the main loop, the polls, the reports, the
// streams, the sums and the upload of a copy.
#pragma once

#include <deque>
#include <memory>
#include <optional>

#include "host/cluster/exchange_machine.h"
#include "host/cluster/node.h"
#include "host/cluster/transfer_machine.h"
#include "tests/sim/network.h"
#include "tests/sim/world.h"

namespace lockstep::sim {

class SimNode : public std::enable_shared_from_this<SimNode> {
 public:
  SimNode(World* world, int slot) : world_(*world), slot_(slot) {}

  void start() { say_hello(); }
  // At once, without a word.
  void die();
  void freeze(int64_t for_us);
  void ask_to_leave();
  void fail_itself();
  void flip_bit();
  // The connection to the coordinator breaks, or stays broken for a while.
  void control_broken();
  void cut_control(int64_t until_us) { control_cut_until_us_ = until_us; }

  bool alive() const { return alive_; }
  bool frozen() const { return frozen_; }
  int slot() const { return slot_; }
  SessionId session() const { return session_; }
  const std::string& name() const { return name_; }
  const NodeMachine* machine() const { return machine_ ? &*machine_ : nullptr; }
  bool has_state() const { return machine_ && machine_->standing().step >= 0; }
  bool leaving() const { return leaving_; }
  std::string describe() const;

  // For the network, on this node's own time.
  void post(int64_t delay_us, std::function<void()> what);
  bool accepts_dial(SessionId from, int era) const;
  int era() const;
  void stream_open(const std::shared_ptr<Stream>& stream);
  void dial_failed(SessionId to);
  void stream_closed(const std::shared_ptr<Stream>& stream);
  void header(const std::shared_ptr<Stream>& stream, const FrameKey& key);
  void body(const std::shared_ptr<Stream>& stream, const FrameKey& key,
            const std::vector<float>& values);
  // What a frame carries, read when it is sent; nothing: it is no longer here.
  std::optional<std::vector<float>> values_of(const FrameKey& key, SessionId to);

 private:
  struct StepValues {
    explicit StepValues(size_t slices = 0) : local(slices), pieces(slices), reduced(slices) {}
    std::vector<std::vector<Piece>> local;
    std::vector<std::vector<Piece>> pieces;
    std::vector<std::optional<std::vector<float>>> reduced;
  };
  struct Peer {
    std::shared_ptr<Stream> stream;
    bool dialing = false;
    int64_t without_since_us = 0;
  };
  struct Attach {};
  struct AskLeave {};
  using Report = std::variant<Attach, HeldReport, StepReport, EpochReport, FaultReport, AskLeave>;

  // Control: sim_node_control.cc.
  void call(std::function<void(Head&)> on_head, std::function<void()> lost, int64_t* id);
  bool answered(int64_t id) { return outstanding_.erase(id) > 0; }
  template <class Reply>
  void ask(std::function<Reply(Head&)> on_head, std::function<void(Reply)> reply,
           std::function<void()> lost);
  void say_hello();
  void join();
  void poll();
  void polled(const Result<PollReply>& reply);
  void report(Report report);
  void send_reports();
  Status send_one(Head& head, const Report& report);
  void new_term(int64_t term);
  void upload(int64_t step);
  void send_copy(int64_t step, const std::string& bytes);
  void exit_process(bool clean);
  bool is_expelled() const;  // as the coordinator sees it, if it is there
  void watch();

  // The main loop: sim_node.cc.
  void wake();
  void step_main();
  void done();  // the action under way is over
  void perform(const NodeAction& action);
  void adopt(const View& view);
  void restore(const StateRef& state);
  void await_state(int64_t step);
  void compute(const ComputeStep& action);
  void slice_ready(int64_t step, int slice, const std::vector<Piece>& roots);
  void train_alone(const TrainAlone& action);
  void apply(int64_t step, const std::vector<float>& flat);
  bool ends_epoch() const;
  void measure(const MeasureEpoch& action);
  std::vector<Piece> gradients(const std::vector<PartitionRange>& partitions);

  // Streams: sim_node_streams.cc.
  void carry_out(const ExchangeOrders& orders);
  void reduce(const ReduceSlice& order);
  void dial_peers();
  void drop_streams(const View& view, bool all);
  StepValues& values_at(int64_t step);
  void forget_values();

  World& world_;
  const int slot_;
  bool alive_ = true;
  bool frozen_ = false;
  int64_t freezes_ = 0;
  bool leaving_ = false;
  std::deque<std::function<void()>> backlog_;

  std::string name_ = "?";
  SessionId session_ = 0;
  int64_t term_ = 0;
  int64_t received_ = 0;
  bool attach_asked_ = false;
  int64_t calls_ = 0;
  std::map<int64_t, std::function<void()>> outstanding_;  // call -> what to do if it is lost
  int64_t control_cut_until_us_ = 0;
  std::deque<Report> reports_;
  int64_t report_under_way_ = 0;  // its number; 0: none
  int64_t report_numbers_ = 0;
  std::deque<StepReport> kept_steps_;
  std::deque<EpochReport> kept_epochs_;

  std::optional<NodeMachine> machine_;
  std::optional<ExchangeMachine> exchange_;
  std::optional<TransferMachine> transfer_;
  int64_t exchange_step_ = 0;
  bool main_scheduled_ = false;
  bool busy_ = false;
  ToyState state_;
  bool has_state_bytes_ = false;
  std::map<int, std::vector<float>> state_parts_;
  std::map<int64_t, StepValues> values_;
  std::set<int> contributed_;  // partitions of the step under way
  std::map<SessionId, Peer> peers_;
};

}  // namespace lockstep::sim

// Tensor streams through shared memory, for processes of one host: two rings in one mapping, and
// the socket over which they were agreed, which says when the peer is gone.
#pragma once

#include <memory>

#include "rpc/byte_stream.h"

namespace lockstep {

// The dialling end, right after the connection: offers a ring where both ends are on one host.
// Returns the stream to use: the socket itself where the peer cannot map the memory.
Result<std::shared_ptr<ByteStream>> offer_shared_memory(std::shared_ptr<SocketByteStream> socket,
                                                        bool wanted);

// The accepting end: takes the offer, or declines it.
Result<std::shared_ptr<ByteStream>> answer_shared_memory(std::shared_ptr<SocketByteStream> socket);

}  // namespace lockstep

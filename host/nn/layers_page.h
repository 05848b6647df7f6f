// docs/layers.md, made from the table of layers.
#pragma once

#include <string>

namespace lockstep {

// Every layer: what it does, its keys with their defaults, what becomes of masks. Markdown.
std::string layers_page();

}  // namespace lockstep

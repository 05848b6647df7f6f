// Rows and places after Sugiyama, Tagawa and Toda, "Methods for visual understanding of
// hierarchical system structures" (1981): a box stands one row below the lowest that it reads; what
// a tensor passes on its way gets a place of its own; places are sorted by the mean of what stands
// above them, then below, a few times over.
#include "host/keras/drawing.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

namespace lockstep {
namespace {

constexpr double kCharWidth = 7.2;  // of the font below, at most
constexpr double kBoxHeight = 44, kBoxPadding = 14, kRowGap = 40, kPlaceGap = 28, kMargin = 24;
constexpr double kPassWidth = 10;  // of a tensor that passes a row
constexpr int kSweeps = 9;         // the last one down

struct Box {
  std::string title, details, color;
  bool passes = false;         // no box: a tensor on its way
  std::vector<size_t> inputs;  // boxes in the row above
  std::vector<size_t> outputs;
  int row = 0;
  double width = 0;
  double x = 0;  // of the middle
};

std::string escaped(const std::string& text) {
  std::string result;
  for (const char c : text) {
    if (c == '&') {
      result += "&amp;";
    } else if (c == '<') {
      result += "&lt;";
    } else if (c == '>') {
      result += "&gt;";
    } else if (c == '"') {
      result += "&quot;";
    } else {
      result += c;
    }
  }
  return result;
}

std::string color_of(const std::string& class_name) {
  const auto has = [&](const char* part) { return class_name.find(part) != std::string::npos; };
  if (has("Input")) return "#e8e8e8";
  if (has("Conv") || has("Dense") || has("Embedding") || has("Dot")) return "#cfe3f7";
  if (has("Norm")) return "#e3d7f3";
  if (has("Pool") || has("Flatten") || has("Reshape") || has("Padding") || has("Crop")) {
    return "#fbe3c4";
  }
  if (has("Dropout") || has("Noise")) return "#f6d5d5";
  if (has("Activation") || has("ReLU") || has("Softmax")) return "#d6efd2";
  return "#f3f0d2";
}

std::string shapes_text(const std::vector<Shape>& shapes) {
  std::string text;
  for (const Shape& shape : shapes) text += (text.empty() ? "" : " ") + to_string(shape);
  return text;
}

class Drawing {
 public:
  Drawing(const Model& model, const std::vector<std::vector<Shape>>& shapes)
      : title_(model.name()) {
    add_boxes(model, shapes);
    pass_rows();
    sort_places();
    place();
  }
  std::string svg() const;

 private:
  void add_boxes(const Model& model, const std::vector<std::vector<Shape>>& shapes);
  size_t add_box(const std::string& name, const std::string& class_name, const std::string& shape,
                 std::vector<size_t> inputs);
  void pass_rows();
  void sort_places();
  void sort_row(std::vector<size_t>* row, bool by_inputs);
  void set_apart(const std::vector<size_t>& row, const std::vector<double>& wanted);
  void place();
  double top_of(const Box& box) const { return kMargin + box.row * (kBoxHeight + kRowGap); }
  std::string line(const Box& from, const Box& to) const;
  std::string box_text(const Box& box) const;

  const std::string title_;
  std::vector<Box> boxes_;
  std::vector<std::vector<size_t>> rows_;
  double width_ = 0;
};

size_t Drawing::add_box(const std::string& name, const std::string& class_name,
                        const std::string& shape, std::vector<size_t> inputs) {
  Box box;
  box.title = name;
  box.details = class_name + " " + shape;
  box.color = color_of(class_name);
  const size_t letters = std::max(box.title.size(), box.details.size());
  box.width = kCharWidth * static_cast<double>(letters) + 2 * kBoxPadding;
  for (const size_t input : inputs) box.row = std::max(box.row, boxes_[input].row + 1);
  box.inputs = std::move(inputs);
  boxes_.push_back(std::move(box));
  return boxes_.size() - 1;
}

void Drawing::add_boxes(const Model& model, const std::vector<std::vector<Shape>>& shapes) {
  for (const Model::Input& input : model.inputs()) {
    add_box(input.name.empty() ? "input" : input.name, "Input", to_string(input.shape), {});
  }
  const size_t inputs = model.inputs().size();
  for (size_t i = 0; i < model.calls().size(); ++i) {
    const Model::Call& call = model.calls()[i];
    std::vector<size_t> reads;
    for (const Model::TensorRef& tensor : call.inputs) {
      reads.push_back(tensor.call < 0 ? static_cast<size_t>(tensor.output)
                                      : inputs + static_cast<size_t>(tensor.call));
    }
    std::sort(reads.begin(), reads.end());
    reads.erase(std::unique(reads.begin(), reads.end()), reads.end());
    const Model::LayerInstance& layer = model.layers()[static_cast<size_t>(call.layer)];
    add_box(layer.name, layer.class_name, shapes_text(shapes[i]), std::move(reads));
  }
}

// After this all inputs of a box stand in the row above it.
void Drawing::pass_rows() {
  const size_t count = boxes_.size();
  for (size_t i = 0; i < count; ++i) {
    for (size_t k = 0; k < boxes_[i].inputs.size(); ++k) {
      size_t above = boxes_[i].inputs[k];
      while (boxes_[above].row + 1 < boxes_[i].row) {
        Box pass;
        pass.passes = true;
        pass.row = boxes_[above].row + 1;
        pass.width = kPassWidth;
        pass.inputs = {above};
        boxes_.push_back(std::move(pass));
        above = boxes_.size() - 1;
      }
      boxes_[i].inputs[k] = above;
    }
  }
  for (size_t i = 0; i < boxes_.size(); ++i) {
    for (const size_t input : boxes_[i].inputs) boxes_[input].outputs.push_back(i);
    rows_.resize(std::max(rows_.size(), static_cast<size_t>(boxes_[i].row) + 1));
    rows_[static_cast<size_t>(boxes_[i].row)].push_back(i);
  }
}

void Drawing::sort_row(std::vector<size_t>* row, bool by_inputs) {
  std::vector<double> means(boxes_.size());
  for (const size_t i : *row) {
    const auto& neighbours = by_inputs ? boxes_[i].inputs : boxes_[i].outputs;
    double sum = 0;
    for (const size_t neighbour : neighbours) sum += boxes_[neighbour].x;
    means[i] = neighbours.empty() ? boxes_[i].x : sum / static_cast<double>(neighbours.size());
  }
  std::stable_sort(row->begin(), row->end(),
                   [&](size_t a, size_t b) { return means[a] < means[b]; });
  set_apart(*row, means);
}

// Near where each wants to be, in this order: the middle between pushing them apart from the left
// and from the right.
void Drawing::set_apart(const std::vector<size_t>& row, const std::vector<double>& wanted) {
  const auto distance = [&](size_t a, size_t b) {
    return (boxes_[a].width + boxes_[b].width) / 2 + kPlaceGap;
  };
  std::vector<double> from_left(row.size());
  for (size_t i = 0; i < row.size(); ++i) {
    from_left[i] = wanted[row[i]];
    if (i == 0) continue;
    from_left[i] = std::max(from_left[i], from_left[i - 1] + distance(row[i - 1], row[i]));
  }
  double from_right = 0;
  for (size_t i = row.size(); i-- > 0;) {
    const bool last = i + 1 == row.size();
    const double limit = last ? wanted[row[i]] : from_right - distance(row[i], row[i + 1]);
    from_right = std::min(wanted[row[i]], limit);
    boxes_[row[i]].x = (from_left[i] + from_right) / 2;
  }
}

void Drawing::sort_places() {
  for (int sweep = 0; sweep < kSweeps; ++sweep) {
    const bool down = sweep % 2 == 0;
    for (size_t i = 0; i < rows_.size(); ++i) {
      sort_row(&rows_[down ? i : rows_.size() - 1 - i], down);
    }
  }
}

void Drawing::place() {
  double left = boxes_[0].x;
  double right = left;
  for (const Box& box : boxes_) {
    left = std::min(left, box.x - box.width / 2);
    right = std::max(right, box.x + box.width / 2);
  }
  for (Box& box : boxes_) box.x += kMargin - left;
  width_ = right - left;
}

std::string Drawing::line(const Box& from, const Box& to) const {
  const double begin = top_of(from) + kBoxHeight;
  const double end = top_of(to);
  const double middle = (begin + end) / 2;
  std::string path = fmt::format("M{:.0f} {:.0f}C{:.0f} {:.0f} {:.0f} {:.0f} {:.0f} {:.0f}", from.x,
                                 begin, from.x, middle, to.x, middle, to.x, end);
  if (to.passes) path += fmt::format("V{:.0f}", end + kBoxHeight);
  return fmt::format("<path d=\"{}\"{}/>\n", path, to.passes ? "" : " marker-end=\"url(#arrow)\"");
}

std::string Drawing::box_text(const Box& box) const {
  const double top = top_of(box);
  return fmt::format(
      "<rect x=\"{:.0f}\" y=\"{:.0f}\" width=\"{:.0f}\" height=\"{:.0f}\" rx=\"6\" fill=\"{}\"/>\n"
      "<text x=\"{:.0f}\" y=\"{:.0f}\" font-weight=\"bold\">{}</text>\n"
      "<text x=\"{:.0f}\" y=\"{:.0f}\">{}</text>\n",
      box.x - box.width / 2, top, box.width, kBoxHeight, box.color, box.x, top + 18,
      escaped(box.title), box.x, top + 34, escaped(box.details));
}

std::string Drawing::svg() const {
  const double width = width_ + 2 * kMargin;
  const double height =
      2 * kMargin + static_cast<double>(rows_.size()) * (kBoxHeight + kRowGap) - kRowGap;
  std::string text = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {:.0f} {:.0f}\" width=\"{:.0f}\" "
      "height=\"{:.0f}\" font-family=\"Helvetica, Arial, sans-serif\" font-size=\"12\" "
      "text-anchor=\"middle\">\n<title>{}</title>\n"
      "<defs><marker id=\"arrow\" viewBox=\"0 0 8 8\" refX=\"8\" refY=\"4\" markerWidth=\"7\" "
      "markerHeight=\"7\" orient=\"auto\"><path d=\"M0 0L8 4L0 8z\" fill=\"#666\"/></marker>"
      "</defs>\n"
      "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
      "<g fill=\"none\" stroke=\"#666\">\n",
      width, height, width, height, escaped(title_));
  for (const Box& box : boxes_) {
    for (const size_t input : box.inputs) text += line(boxes_[input], box);
  }
  text += "</g>\n<g stroke=\"#444\">\n";
  std::string words;
  for (const Box& box : boxes_) {
    if (box.passes) continue;
    const std::string all = box_text(box);
    const size_t split = all.find('\n') + 1;
    text += all.substr(0, split);
    words += all.substr(split);
  }
  return text + "</g>\n<g fill=\"#222\">\n" + words + "</g>\n</svg>\n";
}

}  // namespace

Result<std::string> draw_model(const Model& model) {
  LOCKSTEP_RETURN_IF_ERROR(model.predict_graph());
  std::vector<Shape> inputs;
  for (const Model::Input& input : model.inputs()) inputs.push_back(input.shape);
  LOCKSTEP_ASSIGN(const auto shapes, model.call_shapes(inputs));
  return Drawing(model, shapes).svg();
}

}  // namespace lockstep

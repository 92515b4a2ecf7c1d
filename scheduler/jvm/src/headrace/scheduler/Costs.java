package headrace.scheduler;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.Comparator;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;

/**
 * What work has cost, by key: an exponentially weighted mean of core-µs and of the size (bytes or rows) it was for.
 *
 * <p>Reading is a map look-up, so it may be done inside the scheduler's lock. Any thread may read or learn.
 */
final class Costs {
  /** Mean cost of a key, in core-µs, for a mean size; {@code size} is 0 where none was ever known. */
  record Cost(double us, double size, long count, long last) {}

  static final double NEWEST = 0.3; // weight of the newest observation
  static final int KEPT = 10_000;
  static final double FIRST_TASK_US = 1_000_000.0; // the paper's default, until a task has been seen
  private static final int VERSION = 1;
  private static final ObjectMapper JSON = new ObjectMapper();

  private final Map<String, Cost> costs = new ConcurrentHashMap<>();
  private volatile double taskUs = FIRST_TASK_US;
  private volatile double overheadUs = 5_000.0; // per task; learnt
  private volatile boolean seenTask;

  /** Cost expected of {@code key} for {@code size}; negative where nothing is known. */
  double expect(String key, double size) {
    Cost cost = costs.get(key);
    if (cost == null) return -1.0;
    return cost.size > 0 && size > 0 ? cost.us * size / cost.size : cost.us;
  }

  Cost of(String key) {
    return costs.get(key);
  }

  void learn(String key, double us, double size) {
    if (!(us >= 0) || !(size >= 0) || Double.isInfinite(us)) return;
    costs.merge(
        key,
        new Cost(us, size, 1, System.currentTimeMillis()),
        (old, one) ->
            new Cost(
                mean(old.us, us),
                size > 0 && old.size > 0 ? mean(old.size, size) : Math.max(old.size, size),
                old.count + 1,
                one.last));
    if (costs.size() > KEPT + KEPT / 4) prune();
  }

  void learnTask(double us) {
    taskUs = seenTask ? mean(taskUs, us) : us;
    seenTask = true;
  }

  /** Follows the median, in steps of a twentieth: a worker that starts for seconds says nothing of the next task. */
  void learnOverhead(double us) {
    overheadUs = Math.max(100.0, us > overheadUs ? overheadUs * 1.05 : overheadUs / 1.05);
  }

  double taskUs() {
    return taskUs;
  }

  double overheadUs() {
    return overheadUs;
  }

  int size() {
    return costs.size();
  }

  private static double mean(double old, double newest) {
    return old + NEWEST * (newest - old);
  }

  private synchronized void prune() {
    if (costs.size() <= KEPT) return;
    List<Map.Entry<String, Cost>> oldest =
        costs.entrySet().stream()
            .sorted(Comparator.comparingLong((Map.Entry<String, Cost> e) -> e.getValue().last))
            .limit(costs.size() - KEPT)
            .toList();
    for (Map.Entry<String, Cost> entry : oldest) costs.remove(entry.getKey(), entry.getValue());
  }

  /** Reads what an earlier application wrote; nothing where it wrote nothing. */
  void read(Path file) throws IOException {
    JsonNode root;
    try {
      root = JSON.readTree(Files.readAllBytes(file));
    } catch (NoSuchFileException e) {
      return;
    }
    if (root == null || root.path("version").asInt() != VERSION || !root.path("costs").isObject()) {
      throw new IOException("expected a history of version " + VERSION);
    }
    for (Map.Entry<String, JsonNode> entry : root.path("costs").properties()) {
      JsonNode c = entry.getValue();
      double us = c.path("us").asDouble(Double.NaN);
      double size = c.path("size").asDouble(Double.NaN);
      if (!(us >= 0) || !(size >= 0)) throw new IOException("expected numbers from 0 under '" + entry.getKey() + "'");
      costs.put(entry.getKey(), new Cost(us, size, c.path("count").asLong(1), c.path("last").asLong(0)));
    }
    double task = root.path("task_us").asDouble(Double.NaN);
    if (task > 0) learnTask(task);
  }

  /** Writes all of it, whole or not at all. */
  synchronized void write(Path file) throws IOException {
    prune();
    ObjectNode root = JSON.createObjectNode();
    root.put("version", VERSION).put("task_us", taskUs);
    ObjectNode all = root.putObject("costs");
    costs.forEach(
        (key, c) -> all.putObject(key).put("us", c.us).put("size", c.size).put("count", c.count).put("last", c.last));
    if (file.toAbsolutePath().getParent() != null) Files.createDirectories(file.toAbsolutePath().getParent());
    Path fresh = file.resolveSibling(file.getFileName() + ".new");
    Files.write(fresh, JSON.writeValueAsBytes(root));
    Files.move(fresh, file, StandardCopyOption.REPLACE_EXISTING, StandardCopyOption.ATOMIC_MOVE);
  }
}

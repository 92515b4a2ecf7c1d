package headrace.scheduler;

import java.util.LinkedHashMap;
import java.util.Map;

/** What the partitioning rule saw of recent SQL executions: the plan's shape, and how many bytes its scans will read. */
final class Plans {
  record Seen(String shape, long bytes) {}

  private static final int KEPT = 1_000;
  private static final Map<String, Seen> SEEN =
      new LinkedHashMap<>() {
        private static final long serialVersionUID = 1L;

        @Override
        protected boolean removeEldestEntry(Map.Entry<String, Seen> eldest) {
          return size() > KEPT;
        }
      };

  private Plans() {}

  static void saw(String execution, Seen seen) {
    synchronized (SEEN) {
      SEEN.putIfAbsent(execution, seen);
    }
  }

  static Seen of(String execution) {
    synchronized (SEEN) {
      return execution == null ? null : SEEN.get(execution);
    }
  }

  static String shapeOf(String execution) {
    Seen seen = of(execution);
    return seen == null ? null : seen.shape;
  }

  static void clear() {
    synchronized (SEEN) {
      SEEN.clear();
    }
  }
}

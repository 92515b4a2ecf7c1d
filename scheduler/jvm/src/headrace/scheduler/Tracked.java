package headrace.scheduler;

import java.util.HashMap;
import java.util.HashSet;
import java.util.Map;
import java.util.Set;
import org.apache.spark.scheduler.TaskInfo;
import org.apache.spark.scheduler.TaskSetManager;
import scala.Option;
import scala.collection.Iterator;

/** A task set manager of Spark's, its entry in the queue, and what its tasks were seen to do. Guarded by the scheduler lock. */
final class Tracked {
  final TaskSetManager manager;
  final Entry entry;
  final String stageKey;
  final double size;
  private final Map<Object, Long> running = new HashMap<>(); // task id to launch time, ms
  private int counted; // successes whose time is in doneUs
  private long doneUs;
  private long wastedUs;

  Tracked(TaskSetManager manager, Entry entry, String stageKey, double size) {
    this.manager = manager;
    this.entry = entry;
    this.stageKey = stageKey;
    this.size = size;
  }

  /** Tells the queue what has changed since the last time. */
  void observe(FairQueue queue, long nowMs) {
    int runs = manager.runningTasks();
    int done = manager.tasksSuccessful();
    if (runs == 0 && running.isEmpty() && done == counted) return;
    Set<Object> current = new HashSet<>();
    for (Iterator<Object> ids = manager.runningTasksSet().iterator(); ids.hasNext(); ) current.add(ids.next());
    running.entrySet().removeIf(task -> !current.contains(task.getKey()) && ended(task.getKey(), task.getValue(), nowMs));
    // A task so short that it was never seen running is charged at its fellows' mean, or at the least Spark can measure.
    for (; counted < done; counted++) doneUs += counted > 0 ? doneUs / counted : 1_000;
    long[] elapsed = new long[current.size()];
    int at = 0;
    for (Object id : current) {
      long launched = running.computeIfAbsent(id, this::launchTime);
      elapsed[at++] = Math.max(0, nowMs - launched) * 1_000;
    }
    queue.observe(entry, done, doneUs, wastedUs, elapsed);
  }

  boolean complete() {
    return entry.done >= entry.tasks;
  }

  private boolean ended(Object id, long launched, long nowMs) {
    Option<TaskInfo> info = manager.taskInfos().get(id);
    boolean finished = info.isDefined() && info.get().finished();
    long us = 1_000 * Math.max(0, finished ? info.get().duration() : nowMs - launched);
    if (finished && info.get().successful() && counted < manager.tasksSuccessful()) {
      doneUs += us;
      counted++;
    } else {
      wastedUs += us;
    }
    return true;
  }

  private long launchTime(Object id) {
    Option<TaskInfo> info = manager.taskInfos().get(id);
    return info.isDefined() ? info.get().launchTime() : System.currentTimeMillis();
  }
}

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
  boolean gone; // Spark has removed it
  long ordered = -1; // number of the last order that it was in
  private final Map<Object, Long> running = new HashMap<>(); // task id to launch time, ms
  private int counted; // successes whose time is in doneUs
  private int audited; // successes when all tasks were last gone through
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
    if (counted < done) catchUp(done);
    long[] elapsed = new long[current.size()];
    int at = 0;
    for (Object id : current) {
      long launched = running.computeIfAbsent(id, this::launchTime);
      elapsed[at++] = Math.max(0, nowMs - launched) * 1_000;
    }
    queue.observe(entry, done, doneUs, wastedUs, elapsed);
  }

  /**
   * Tasks that began and ended between two looks are charged at their fellows' mean, and exactly whenever their number has
   * doubled and at the end: going through all tasks each time would cost too much within the lock.
   */
  private void catchUp(int done) {
    if (done < 2 * audited && done < entry.tasks) {
      doneUs += counted > 0 ? doneUs / counted * (done - counted) : 0;
    } else {
      audited = done;
      doneUs = 0;
      wastedUs = 0;
      for (Iterator<TaskInfo> infos = manager.taskInfos().valuesIterator(); infos.hasNext(); ) {
        TaskInfo info = infos.next();
        if (!info.finished()) continue;
        if (info.successful()) doneUs += 1_000 * Math.max(1, info.duration());
        else wastedUs += 1_000 * info.duration();
      }
    }
    counted = done;
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

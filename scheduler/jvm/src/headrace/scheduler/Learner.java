package headrace.scheduler;

import java.util.Map;
import java.util.Properties;
import java.util.concurrent.ConcurrentHashMap;
import org.apache.spark.executor.TaskMetrics;
import org.apache.spark.scheduler.SparkListener;
import org.apache.spark.scheduler.SparkListenerStageCompleted;
import org.apache.spark.scheduler.SparkListenerStageSubmitted;
import org.apache.spark.scheduler.SparkListenerTaskEnd;

/**
 * Learns what partitioning needs and the scheduler lock does not show: cost per byte scanned and shuffled, overhead per task.
 *
 * <p>Runs on Spark's listener bus, late and out of the way.
 */
final class Learner extends SparkListener {
  private record Stage(String jobClass, Plans.Seen plan, double size) {}

  private final Costs costs;
  private final Map<Integer, Stage> stages = new ConcurrentHashMap<>();

  Learner(Costs costs) {
    this.costs = costs;
  }

  @Override
  public void onStageSubmitted(SparkListenerStageSubmitted event) {
    Properties p = event.properties();
    String jobClass = p == null ? null : Identity.classOf(p);
    if (jobClass == null) return;
    String size = p.getProperty(Identity.SIZE, "0");
    stages.put(
        event.stageInfo().stageId(),
        new Stage(jobClass, Plans.of(p.getProperty(Identity.EXECUTION)), number(size)));
  }

  @Override
  public void onTaskEnd(SparkListenerTaskEnd event) {
    TaskMetrics metrics = event.taskMetrics();
    if (metrics == null || event.taskInfo() == null || !event.taskInfo().successful()) return;
    costs.learnOverhead(1_000.0 * (event.taskInfo().duration() - metrics.executorRunTime()));
  }

  @Override
  public void onStageCompleted(SparkListenerStageCompleted event) {
    Stage stage = stages.remove(event.stageInfo().stageId());
    TaskMetrics metrics = event.stageInfo().taskMetrics();
    if (stage == null || metrics == null || event.stageInfo().failureReason().isDefined()) return;
    double us = 1_000.0 * metrics.executorRunTime();
    long shuffled = metrics.shuffleReadMetrics().totalBytesRead();
    if (shuffled > 0) costs.learn(stage.jobClass + "#shuffle", us, shuffled);
    else if (stage.plan != null && stage.plan.bytes() > 0 && metrics.inputMetrics().recordsRead() > 0) {
      costs.learn(stage.jobClass + "#scan", us, stage.plan.bytes());
    }
    if (stage.size > 0 && shuffled == 0) costs.learn(stage.jobClass + "#source", us, stage.size);
  }

  private static double number(String text) {
    try {
      return Double.parseDouble(text);
    } catch (NumberFormatException e) {
      return 0.0;
    }
  }
}

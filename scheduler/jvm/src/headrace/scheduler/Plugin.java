package headrace.scheduler;

import com.codahale.metrics.MetricRegistry;
import java.io.IOException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;
import javax.xml.parsers.DocumentBuilderFactory;
import org.apache.hadoop.fs.FSDataInputStream;
import org.apache.spark.SparkContext;
import org.apache.spark.api.plugin.DriverPlugin;
import org.apache.spark.api.plugin.ExecutorPlugin;
import org.apache.spark.api.plugin.PluginContext;
import org.apache.spark.api.plugin.SparkPlugin;
import org.apache.spark.scheduler.Pool;
import org.apache.spark.scheduler.Schedulable;
import org.apache.spark.scheduler.TaskSchedulerImpl;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * Puts our pool in place of Spark's, in an unchanged Spark: {@code spark.plugins=headrace.scheduler.Plugin}.
 *
 * <p>{@link #init} runs before the task scheduler is made, and switches its mode to FAIR, so that it looks pools up by name.
 * {@link #registerMetrics} runs after it was made and before a job can be submitted, and exchanges the pools. Whatever does not
 * fit is told in one warning, and Spark's own order goes on.
 */
public final class Plugin implements SparkPlugin {
  private static final Logger LOG = LoggerFactory.getLogger("headrace.scheduler");
  private static final List<String> TESTED = List.of("4.2.", "4.3.");
  private static final String EXTENSIONS = "spark.sql.extensions";
  private static final long HELD_EVERY_MS = 50;
  private static final long HISTORY_EVERY_S = 60;

  private static volatile Installed installed;

  /** What runs in this JVM's application. */
  record Installed(Conf conf, TaskSchedulerImpl scheduler, FairPool pool, Costs costs, Recent recent) {}

  static Installed installed() {
    return installed;
  }

  @Override
  public ExecutorPlugin executorPlugin() {
    return null;
  }

  @Override
  public DriverPlugin driverPlugin() {
    return new Driver();
  }

  private static final class Driver implements DriverPlugin {
    private SparkContext context;
    private Conf conf;
    private ScheduledExecutorService timer;

    @Override
    public Map<String, String> init(SparkContext context, PluginContext plugin) {
      this.context = context;
      try {
        if (TESTED.stream().noneMatch(context.version()::startsWith)) {
          throw new IllegalArgumentException("expected Spark 4.2 or 4.3, got " + context.version() + "; update headrace");
        }
        Conf read = Conf.of(context.conf());
        if (read.policy() == Policy.NONE) return Map.of();
        requireReadablePools();
        if ("FIFO".equals(context.conf().get("spark.scheduler.mode", ""))) {
          LOG.info("spark.scheduler.mode=FIFO is overridden; set {}policy=none to keep Spark's own order", Conf.PREFIX);
        }
        context.conf().set("spark.scheduler.mode", "FAIR");
        context.conf().setIfMissing("spark.locality.wait", "300ms"); // an urgent task must not wait 3 s for its favourite host
        if (read.partitioning()) {
          String others = context.conf().get(EXTENSIONS, "");
          context.conf().set(EXTENSIONS, (others.isEmpty() ? "" : others + ",") + Partitioning.class.getName());
        }
        conf = read;
      } catch (Exception | LinkageError e) {
        stepBack(e);
      }
      return Map.of();
    }

    @Override
    public void registerMetrics(String application, PluginContext plugin) {
      if (conf == null) return;
      try {
        install(plugin.metricRegistry());
      } catch (Exception | LinkageError e) {
        stepBack(e);
      }
    }

    @Override
    public void shutdown() {
      if (timer == null) return;
      timer.shutdownNow();
      saveHistory();
      installed = null;
      Plans.clear();
    }

    private void install(MetricRegistry metrics) {
      if (!(context.taskScheduler() instanceof TaskSchedulerImpl scheduler)) {
        throw new IllegalStateException("expected Spark's TaskSchedulerImpl, got " + context.taskScheduler().getClass());
      }
      Pool root = scheduler.rootPool();
      Map<String, FairPool.Share> shares = new TreeMap<>();
      List<Schedulable> old = new ArrayList<>(root.schedulableQueue());
      for (Schedulable child : old) {
        if (child.getClass() != Pool.class) {
          throw new IllegalStateException(
              "expected Spark's own pools, got " + child.getClass().getName() + "; name one scheduler plugin in spark.plugins");
        }
        shares.put(child.name(), new FairPool.Share(Math.max(1, child.weight()), child.minShare()));
      }
      Costs costs = new Costs();
      loadHistory(costs);
      Recent recent = new Recent(costs);
      int cores = Math.max(1, context.defaultParallelism());
      FairQueue queue = new FairQueue(conf.policy(), conf.wall(), cores, 0.0, recent);
      conf.weights().forEach(queue::setWeight);
      conf.caps().forEach(queue::setCap);
      FairPool pool = new FairPool(queue, costs, shares, context.sparkUser(), () -> slots(scheduler));
      for (Schedulable child : old) root.removeSchedulable(child);
      root.addSchedulable(pool);
      installed = new Installed(conf, scheduler, pool, costs, recent);
      context.listenerBus().addToStatusQueue(new Learner(costs)); // a queue of its own would wake one more thread an event
      Gauges.register(metrics, installed);
      timer =
          Executors.newSingleThreadScheduledExecutor(
              task -> {
                Thread thread = new Thread(task, "headrace-scheduler");
                thread.setDaemon(true);
                return thread;
              });
      timer.scheduleWithFixedDelay(() -> offerAgain(scheduler, pool), HELD_EVERY_MS, HELD_EVERY_MS, TimeUnit.MILLISECONDS);
      timer.scheduleWithFixedDelay(this::saveHistory, HISTORY_EVERY_S, HISTORY_EVERY_S, TimeUnit.SECONDS);
      LOG.info("headrace scheduler installed: policy {}, clock {}", conf.policy(), conf.wall() ? "wall" : "self");
    }

    /** Spark offers cores when something happens; a user who waits for its cap alone would wait for that. */
    private static void offerAgain(TaskSchedulerImpl scheduler, FairPool pool) {
      if (pool.held()) scheduler.backend().reviveOffers();
    }

    private int slots(TaskSchedulerImpl scheduler) {
      return scheduler.backend().maxNumConcurrentTasks(context.resourceProfileManager().defaultResourceProfile());
    }

    /** Spark itself would not start with a pool file that does not parse, which without us it might never read. */
    private void requireReadablePools() {
      String file = context.conf().get("spark.scheduler.allocation.file", "");
      if (file.isEmpty()) return;
      org.apache.hadoop.fs.Path path = new org.apache.hadoop.fs.Path(file);
      try (FSDataInputStream in = path.getFileSystem(context.hadoopConfiguration()).open(path)) {
        DocumentBuilderFactory factory = DocumentBuilderFactory.newInstance();
        factory.setFeature("http://apache.org/xml/features/disallow-doctype-decl", true);
        var builder = factory.newDocumentBuilder();
        builder.setErrorHandler(null);
        builder.parse(in);
      } catch (Exception e) {
        throw new IllegalArgumentException(
            "expected a pool file in spark.scheduler.allocation.file, got '" + file + "': " + e.getMessage() + "; correct it", e);
      }
    }

    private void loadHistory(Costs costs) {
      if (conf.history().isEmpty()) return;
      try {
        costs.read(Path.of(conf.history()));
      } catch (IOException | RuntimeException e) {
        LOG.warn(
            "headrace scheduler begins without its history '{}': {}; remove the file or name another in {}history",
            conf.history(), e.getMessage(), Conf.PREFIX);
      }
    }

    private void saveHistory() {
      if (conf.history().isEmpty() || installed == null) return;
      try {
        installed.costs().write(Path.of(conf.history()));
      } catch (IOException | RuntimeException e) {
        LOG.warn("headrace scheduler could not write its history '{}': {}", conf.history(), e.toString());
      }
    }

    private void stepBack(Throwable e) {
      conf = null;
      boolean said = e instanceof IllegalArgumentException || e instanceof IllegalStateException; // in a sentence of ours
      LOG.warn("headrace scheduler is not installed and Spark's own order goes on: {}", said ? e.getMessage() : e, said ? null : e);
    }
  }
}

package headrace.scheduler;

import org.apache.spark.SparkContext;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.SparkSessionExtensions;
import org.apache.spark.sql.catalyst.rules.Rule;
import org.apache.spark.sql.execution.ColumnarRule;
import org.apache.spark.sql.execution.FileSourceScanExec;
import org.apache.spark.sql.execution.SparkPlan;
import org.apache.spark.sql.execution.datasources.HadoopFsRelation;
import org.apache.spark.sql.execution.exchange.ShuffleExchangeExec;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;
import scala.Some;
import scala.collection.Iterator;
import scala.runtime.AbstractFunction1;
import scala.runtime.BoxedUnit;

/**
 * Cuts scans and shuffles into tasks of about the target's length, from what the same class of job has cost per byte.
 *
 * <p>A session extension. What it decides is written into the plan, per scan and per exchange; no session's conf is touched.
 * Plans of streaming queries with state are left alone: their partitions are fixed by the checkpoint.
 */
public final class Partitioning extends AbstractFunction1<SparkSessionExtensions, BoxedUnit> {
  private static final Logger LOG = LoggerFactory.getLogger("headrace.scheduler");
  private static final double OVERHEAD_SHARE = 0.1;
  private static final int RELATION = 0; // among the arguments of a scan
  private static final int ADVISORY_SIZE = 3; // among those of an exchange
  private static volatile boolean broken;

  @Override
  public BoxedUnit apply(SparkSessionExtensions extensions) {
    extensions.injectQueryStagePrepRule(
        new AbstractFunction1<SparkSession, Rule<SparkPlan>>() {
          @Override
          public Rule<SparkPlan> apply(SparkSession session) {
            return new Guarded(session, Partitioning::exchanges);
          }
        });
    extensions.injectColumnar(
        new AbstractFunction1<SparkSession, ColumnarRule>() {
          @Override
          public ColumnarRule apply(SparkSession session) {
            return new ColumnarRule() {
              @Override
              public Rule<SparkPlan> preColumnarTransitions() {
                return new Guarded(session, Partitioning::scans);
              }
            };
          }
        });
    return BoxedUnit.UNIT;
  }

  private interface Step {
    SparkPlan apply(SparkPlan plan, Query query);
  }

  /** What is known of the query that a plan belongs to. */
  private record Query(Plugin.Installed on, String jobClass) {}

  /** A rule that changes nothing where partitioning is off or has failed, and never fails a query. */
  private static final class Guarded extends Rule<SparkPlan> {
    private final SparkSession session;
    private final Step step;

    Guarded(SparkSession session, Step step) {
      this.session = session;
      this.step = step;
    }

    @Override
    public SparkPlan apply(SparkPlan plan) {
      Plugin.Installed on = Plugin.installed();
      if (on == null || broken || !on.conf().partitioning()) return plan;
      try {
        SparkContext context = session.sparkContext();
        String execution = context.getLocalProperty(Identity.EXECUTION);
        if (execution == null || stateful(plan)) return plan;
        see(plan, execution);
        if ("false".equals(context.getLocalProperty(Identity.PARTITIONING))) return plan;
        String said = context.getLocalProperty(Identity.CLASS);
        String stream = context.getLocalProperty("sql.streaming.queryId");
        String jobClass = said != null ? said : stream != null ? "query " + stream : Plans.shapeOf(execution);
        return jobClass == null ? plan : step.apply(plan, new Query(on, jobClass));
      } catch (Exception | LinkageError e) {
        broken = true;
        LOG.warn("headrace scheduler leaves partitions alone from now on; Spark's own sizes go on", e);
        return plan;
      }
    }
  }

  /** Asks for reduce partitions of the target's length, in bytes, of each exchange that Spark itself put there. */
  private static SparkPlan exchanges(SparkPlan plan, Query query) {
    Costs.Cost cost = query.on.costs().of(query.jobClass + "#shuffle");
    if (cost == null || cost.size() <= 0 || cost.us() <= 0) return plan;
    double target = Math.max(query.on.conf().targetTaskUs(), query.on.costs().overheadUs() / OVERHEAD_SHARE);
    long bytes = (long) Math.max(1, Math.min(target * cost.size() / cost.us(), Long.MAX_VALUE / 2));
    return map(
        plan,
        at ->
            at instanceof ShuffleExchangeExec exchange && exchange.advisoryPartitionSize().isEmpty()
                ? with(exchange, ADVISORY_SIZE, new Some<Object>(bytes))
                : at);
  }

  /** Gives each file scan so many partitions that one takes the target, through a relation with a conf of its own. */
  private static SparkPlan scans(SparkPlan plan, Query query) {
    return map(
        plan,
        at -> {
          if (!(at instanceof FileSourceScanExec scan) || scan.bucketedScan()) return at;
          HadoopFsRelation relation = scan.relation();
          double us = query.on.costs().expect(query.jobClass + "#scan", relation.location().sizeInBytes());
          if (us < 0) return at;
          int wanted = partitions(us, query.on.conf().targetTaskUs(), query.on.costs().overheadUs(), query.on.pool().queue().cores());
          SparkSession own = ((org.apache.spark.sql.classic.SparkSession) relation.sparkSession()).cloneSession();
          own.conf().set("spark.sql.files.minPartitionNum", wanted);
          own.conf().set("spark.sql.files.openCostInBytes", 1L << 10);
          // Spark takes a node that equals the old one for the old one, and relations are compared without their session.
          @SuppressWarnings("unchecked")
          scala.collection.immutable.Map<String, String> marked =
              (scala.collection.immutable.Map<String, String>)
                  relation.options().updated("headrace.partitions", Integer.toString(wanted));
          HadoopFsRelation cut =
              relation.copy(
                  relation.location(),
                  relation.partitionSchema(),
                  relation.dataSchema(),
                  relation.bucketSpec(),
                  relation.fileFormat(),
                  marked,
                  own);
          return with(scan, RELATION, cut);
        });
  }

  /** As {@code partitions} in {@code scheduler/control.py}. */
  static int partitions(double us, double targetUs, double overheadUs, int cores) {
    double least = us <= targetUs ? 1 : cores;
    double most = overheadUs > 0 ? Math.max(1, Math.floor(OVERHEAD_SHARE * us / overheadUs)) : Integer.MAX_VALUE;
    return (int) Math.max(1, Math.min(Math.max(least, Math.ceil(us / targetUs)), most));
  }

  private interface Change {
    SparkPlan apply(SparkPlan at);
  }

  private static SparkPlan map(SparkPlan plan, Change change) {
    return plan.transformUp(
            new scala.runtime.AbstractPartialFunction<SparkPlan, SparkPlan>() {
              @Override
              public boolean isDefinedAt(SparkPlan at) {
                return at instanceof ShuffleExchangeExec || at instanceof FileSourceScanExec;
              }

              @Override
              public <A extends SparkPlan, B> B applyOrElse(A at, scala.Function1<A, B> otherwise) {
                if (!isDefinedAt(at)) return otherwise.apply(at);
                @SuppressWarnings("unchecked")
                B changed = (B) change.apply(at);
                return changed;
              }
            });
  }

  /** A copy of a node with another argument: its own {@code copy} has other arguments in each release of Spark. */
  private static SparkPlan with(SparkPlan node, int argument, Object value) {
    Object[] arguments = new Object[node.productArity()];
    for (int n = 0; n < arguments.length; n++) arguments[n] = node.productElement(n);
    arguments[argument] = value;
    return node.makeCopy(arguments);
  }

  private static boolean stateful(SparkPlan plan) {
    if (plan.getClass().getName().contains(".streaming.") && plan.getClass().getSimpleName().contains("State")) return true;
    for (Iterator<SparkPlan> children = plan.children().iterator(); children.hasNext(); ) {
      if (stateful(children.next())) return true;
    }
    return false;
  }

  /** Notes the plan's shape (its operators, without literals) and how much its scans will read. */
  private static void see(SparkPlan plan, String execution) {
    if (Plans.of(execution) != null) return;
    StringBuilder operators = new StringBuilder();
    long bytes = walk(plan, operators);
    Plans.saw(execution, new Plans.Seen("plan " + Integer.toHexString(operators.toString().hashCode()), bytes));
  }

  private static long walk(SparkPlan plan, StringBuilder operators) {
    operators.append(plan.nodeName()).append('(');
    long bytes = 0;
    if (plan instanceof FileSourceScanExec scan) {
      bytes += scan.relation().location().sizeInBytes();
      operators.append(String.join(",", scan.requiredSchema().fieldNames()));
      for (org.apache.hadoop.fs.Path root : scala.jdk.javaapi.CollectionConverters.asJava(scan.relation().location().rootPaths())) {
        operators.append(root);
      }
    }
    for (Iterator<SparkPlan> children = plan.children().iterator(); children.hasNext(); ) {
      bytes += walk(children.next(), operators);
    }
    operators.append(')');
    return bytes;
  }
}

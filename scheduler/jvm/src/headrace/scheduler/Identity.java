package headrace.scheduler;

import java.util.Properties;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.apache.spark.scheduler.ResultTask;
import org.apache.spark.scheduler.TaskSet;

/**
 * Who a task set belongs to, which job it is part of and what kind of job that is, read from its properties alone.
 *
 * <p>Nobody has to change code: Spark Connect, Kyuubi, structured streaming, pools and job groups already leave their names.
 */
record Identity(String user, String pool, String job, String jobClass, boolean named) {
  static final String USER = "headrace.user";
  static final String WEIGHT = "headrace.weight";
  static final String CLASS = "headrace.jobClass";
  static final String COST_MS = "headrace.costMs";
  static final String SIZE = "headrace.size";
  static final String PARTITIONING = "headrace.partitioning";
  static final String EXECUTION = "spark.sql.execution.id";

  private static final Pattern CONNECT = Pattern.compile("SparkConnect_OperationTag_User_(.*?)_Session_");

  static Identity of(TaskSet taskSet, String applicationUser) {
    Properties p = taskSet.properties() == null ? new Properties() : taskSet.properties();
    String pool = p.getProperty("spark.scheduler.pool");
    String user = userOf(p, pool, applicationUser);
    String query = p.getProperty("sql.streaming.queryId");
    String root = p.getProperty("spark.sql.execution.root.id", p.getProperty(EXECUTION));
    String job;
    if (query != null) job = "batch " + query + " " + p.getProperty("streaming.sql.batchId", "?");
    else if (root != null) job = "execution " + root;
    else job = "job " + taskSet.priority();
    String named = classOf(p);
    String site = p.getProperty("callSite.short", "");
    return new Identity(user, pool == null ? user : pool, job, named != null ? named : user + "/" + site, named != null);
  }

  /** The user that a thread with these properties acts for. */
  private static String userOf(Properties p, String pool, String applicationUser) {
    String said = first(p, USER);
    if (said != null) return said;
    Matcher connect = CONNECT.matcher(p.getProperty("spark.job.tags", ""));
    if (connect.find()) return connect.group(1);
    String session = first(p, "kyuubi.session.user", "spark.kyuubi.session.user", "spark.sql.thriftserver.user");
    if (session != null) return session;
    if (pool != null && !pool.equals("default")) return pool;
    String query = first(p, "sql.streaming.queryId");
    if (query != null) return "query " + query;
    String group = first(p, "spark.jobGroup.id");
    return group != null ? group : applicationUser;
  }

  /** What jobs that cost alike are called, where something names it: the user, a streaming query, or the shape of a plan. */
  static String classOf(Properties p) {
    String said = first(p, CLASS);
    if (said != null) return said;
    String query = first(p, "sql.streaming.queryId");
    if (query != null) return "query " + query;
    String execution = first(p, EXECUTION);
    return execution == null ? null : Plans.shapeOf(execution);
  }

  /** The key of a task set among the learnt costs: the class and the stage's place in its job. */
  String stageKey(TaskSet taskSet, int ordinal) {
    boolean result = taskSet.tasks().length > 0 && taskSet.tasks()[0] instanceof ResultTask;
    return jobClass + "#" + ordinal + (result ? "r" : "m");
  }

  private static String first(Properties p, String... names) {
    for (String name : names) {
      String value = p.getProperty(name);
      if (value != null && !value.isEmpty()) return value;
    }
    return null;
  }
}

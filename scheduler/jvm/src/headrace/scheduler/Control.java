package headrace.scheduler;

import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.function.Function;

/** What Python may ask and change; answers are JSON. Each call holds Spark's scheduler lock for as long as it copies. */
public final class Control {
  private static final ObjectMapper JSON = new ObjectMapper();
  private static final int MOST = 200; // users and jobs in one answer

  private Control() {}

  public static boolean installed() {
    return Plugin.installed() != null;
  }

  public static void setWeight(String user, double weight) {
    Conf.weight(Double.toString(weight));
    locked(on -> {
      on.pool().queue().setWeight(user, weight);
      return null;
    });
  }

  public static void setCap(String user, double cap) {
    Conf.cap(Double.toString(cap));
    locked(on -> {
      on.pool().queue().setCap(user, cap);
      return null;
    });
  }

  /** Learnt cost in core-µs of {@code size} bytes or rows of a class, the overhead of a task and the target; -1 for unknown. */
  public static String costOf(String jobClass, double size) {
    Plugin.Installed on = Plugin.installed();
    ObjectNode answer = JSON.createObjectNode();
    double source = on.costs().expect(jobClass + "#source", size);
    answer.put("us", source >= 0 ? source : on.costs().expect(jobClass + "#job", size));
    answer.put("overhead_us", on.costs().overheadUs());
    answer.put("target_us", on.conf().targetTaskUs());
    answer.put("cores", on.pool().queue().cores());
    return answer.toString();
  }

  public static String snapshot() {
    return locked(
        on -> {
          FairQueue queue = on.pool().queue();
          ObjectNode root = JSON.createObjectNode();
          root.put("policy", queue.policy().name().toLowerCase(java.util.Locale.ROOT));
          root.put("clock", on.conf().wall() ? "wall" : "self");
          root.put("stepped_back", on.pool().broken());
          root.put("cores", queue.cores());
          root.put("virtual_time_ms", queue.virtual().now / 1e3);
          root.put("sorts", on.pool().sorts());
          root.put("mean_sort_us", on.pool().meanSortUs());
          root.put("overhead_ms", on.costs().overheadUs() / 1e3);
          ArrayNode users = root.putArray("users");
          queue.users().stream()
              .sorted(Comparator.comparingLong((User user) -> -user.served))
              .limit(MOST)
              .forEach(user -> user(users.addObject(), queue, user));
          ArrayNode jobs = root.putArray("jobs");
          queue.jobs().stream()
              .filter(job -> job.live > 0)
              .sorted(Comparator.comparingDouble(queue.virtual()::deadline))
              .limit(MOST)
              .forEach(job -> job(jobs.addObject(), queue, job));
          ArrayNode ended = root.putArray("ended");
          for (Recent.Ended job : on.recent().jobs()) {
            ended
                .addObject()
                .put("user", job.user())
                .put("job", job.job())
                .put("estimate_ms", job.estimateUs() / 1e3)
                .put("spent_ms", job.spentUs() / 1e3)
                .put("response_ms", job.responseMs());
          }
          return root.toString();
        });
  }

  /** Where the named job stands, what stands before it, and whether its user's cap holds it back; null for an unknown job. */
  public static String why(String key) {
    return locked(
        on -> {
          FairQueue queue = on.pool().queue();
          Job asked = queue.job(key);
          if (asked == null) return null;
          ObjectNode root = JSON.createObjectNode();
          job(root, queue, asked);
          user(root.putObject("owner"), queue, asked.user);
          root.put("capped", queue.capped(asked.user));
          ArrayNode ahead = root.putArray("ahead");
          List<Job> seen = new ArrayList<>();
          for (Entry entry : queue.order(new ArrayList<>(queue.entries()))) {
            if (entry.job == asked) break;
            if (!seen.contains(entry.job) && seen.size() < MOST) seen.add(entry.job);
          }
          for (Job job : seen) job(ahead.addObject(), queue, job);
          return root.toString();
        });
  }

  private static void user(ObjectNode out, FairQueue queue, User user) {
    double still = 0;
    for (Job job : queue.jobs()) if (job.user == user) still += Math.max(0, Math.max(job.prior, job.known) - job.credited);
    Flow flow = queue.flowOf(user);
    double virtually = flow == null ? still : queue.virtual().backlog(flow);
    out.put("user", user.name)
        .put("weight", user.weight)
        .put("cap", user.cap)
        .put("running", user.running)
        .put("served_ms", user.served / 1e3)
        .put("lag_ms", (still - virtually) / 1e3)
        .put("jobs_ended", user.finished)
        .put("mean_response_ms", user.finished == 0 ? 0.0 : user.responses / user.finished);
  }

  private static void job(ObjectNode out, FairQueue queue, Job job) {
    int running = 0;
    int waiting = 0;
    for (Entry entry : queue.entries()) {
      if (entry.job != job) continue;
      running += entry.running;
      waiting += Math.max(0, entry.tasks - entry.done - entry.running);
    }
    out.put("user", job.user.name)
        .put("job", job.key)
        .put("deadline_ms", queue.policy().queues() ? queue.virtual().deadline(job) / 1e3 : 0.0)
        .put("estimate_ms", Math.max(job.prior, job.known) / 1e3)
        .put("spent_ms", job.spent / 1e3)
        .put("running", running)
        .put("waiting", waiting)
        .put("age_ms", queue.now() - job.submitted);
  }

  private static <T> T locked(Function<Plugin.Installed, T> ask) {
    Plugin.Installed on = Plugin.installed();
    if (on == null) throw new IllegalStateException("the headrace scheduler is not installed in this application");
    synchronized (on.scheduler()) {
      on.pool().refresh();
      return ask.apply(on);
    }
  }
}

package headrace.scheduler;

import java.util.LinkedHashMap;
import java.util.Map;
import org.apache.spark.SparkConf;

/** What the application was told, read once. A value that does not fit raises one sentence that says what to do. */
record Conf(
    Policy policy,
    boolean wall,
    Map<String, Double> weights,
    Map<String, Double> caps,
    long targetTaskUs,
    boolean partitioning,
    String history) {

  static final String PREFIX = "spark.headrace.scheduler.";

  static Conf of(SparkConf conf) {
    String clock = conf.get(PREFIX + "clock", "self");
    if (!clock.equals("self") && !clock.equals("wall")) throw misfit("clock", "self or wall", clock);
    return new Conf(
        Policy.of(conf.get(PREFIX + "policy", "uwfq")),
        clock.equals("wall"),
        pairs(conf, "weights", Double.MAX_VALUE),
        pairs(conf, "caps", 1.0),
        (long) (1000 * number(conf, "targetTaskMs", "500", 60_000)),
        flag(conf, "partitioning", "true"),
        conf.get(PREFIX + "history", ""));
  }

  static double weight(String text) {
    return number("weight", text, Double.MAX_VALUE);
  }

  static double cap(String text) {
    return number("cap", text, 1.0);
  }

  /** {@code alice=2,bob=0.5}: finite numbers above 0, at most {@code most}. */
  private static Map<String, Double> pairs(SparkConf conf, String name, double most) {
    Map<String, Double> pairs = new LinkedHashMap<>();
    for (String pair : conf.get(PREFIX + name, "").split(",")) {
      if (pair.isBlank()) continue;
      int at = pair.lastIndexOf('=');
      if (at < 1) throw misfit(name, "user=number pairs", pair);
      pairs.put(pair.substring(0, at).strip(), number(name, pair.substring(at + 1), most));
    }
    return Map.copyOf(pairs);
  }

  private static double number(SparkConf conf, String name, String otherwise, double most) {
    return number(name, conf.get(PREFIX + name, otherwise), most);
  }

  private static double number(String name, String text, double most) {
    double value;
    try {
      value = Double.parseDouble(text.strip());
    } catch (NumberFormatException e) {
      value = Double.NaN;
    }
    if (value > 0 && value <= most && value < Double.POSITIVE_INFINITY) return value;
    throw misfit(name, "a number above 0" + (most < Double.MAX_VALUE ? " and at most " + most : ""), text);
  }

  private static boolean flag(SparkConf conf, String name, String otherwise) {
    String text = conf.get(PREFIX + name, otherwise);
    if (!text.equals("true") && !text.equals("false")) throw misfit(name, "true or false", text);
    return text.equals("true");
  }

  private static IllegalArgumentException misfit(String name, String expected, String got) {
    return new IllegalArgumentException(
        "expected " + expected + " in " + PREFIX + name + ", got '" + got + "'; correct it, or set " + PREFIX + "policy=none");
  }
}

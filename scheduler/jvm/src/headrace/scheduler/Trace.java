package headrace.scheduler;

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * Plays traces from standard input through a {@link FairQueue} and prints each order (or count of what is kept) asked for, one line
 * each.
 *
 * <p>The same lines as {@code headrace.scheduler.model.play}, which is how the two are compared. No Spark is needed.
 */
public final class Trace {
  private FairQueue queue;
  private final Map<String, Entry> entries = new LinkedHashMap<>();

  public static void main(String[] arguments) throws Exception {
    Trace trace = new Trace();
    BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    StringBuilder out = new StringBuilder();
    for (String line = lines.readLine(); line != null; line = lines.readLine()) trace.play(line.split(" "), out);
    System.out.print(out);
  }

  private void play(String[] words, StringBuilder out) {
    switch (words[0]) {
      case "begin" -> {
        queue =
            new FairQueue(
                Policy.of(words[1]), words[2].equals("wall"), Integer.parseInt(words[3]), 0.0, (job, ms) -> {});
        entries.clear();
      }
      case "now" -> queue.advance(Double.parseDouble(words[1]));
      case "weight" -> queue.setWeight(words[1], Double.parseDouble(words[2]));
      case "cap" -> queue.setCap(words[1], Double.parseDouble(words[2]));
      case "submit" -> entries.put(words[1], queue.submit(submission(words)));
      case "observe" -> {
        long[] running = new long[words.length - 5];
        for (int i = 0; i < running.length; i++) running[i] = Long.parseLong(words[i + 5]);
        queue.observe(
            entries.get(words[1]),
            Integer.parseInt(words[2]),
            Long.parseLong(words[3]),
            Long.parseLong(words[4]),
            running);
      }
      case "remove" -> queue.remove(entries.remove(words[1]));
      case "order" -> {
        List<Entry> waiting = new ArrayList<>(entries.values());
        List<String> ids = new ArrayList<>();
        for (Entry entry : queue.order(waiting)) ids.add(Long.toString(entry.id));
        out.append(String.join(" ", ids)).append('\n');
      }
      case "count" ->
          out.append(queue.users().size())
              .append(' ')
              .append(queue.jobs().size())
              .append(' ')
              .append(queue.flows())
              .append(' ')
              .append(queue.entries().size())
              .append('\n');
      default -> throw new IllegalArgumentException("expected a trace's line, got '" + String.join(" ", words) + "'");
    }
  }

  private static FairQueue.Submission submission(String[] w) {
    return new FairQueue.Submission(
        w[2],
        Double.parseDouble(w[3]),
        Integer.parseInt(w[4]),
        w[5],
        Integer.parseInt(w[6]),
        Integer.parseInt(w[7]),
        Integer.parseInt(w[8]),
        w[9].equals("barrier"),
        Long.parseLong(w[10]),
        Long.parseLong(w[11]));
  }
}

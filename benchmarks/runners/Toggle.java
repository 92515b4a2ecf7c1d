package headrace.scheduler;

import org.apache.spark.SparkContext;
import org.apache.spark.scheduler.Pool;
import org.apache.spark.scheduler.Schedulable;
import org.apache.spark.scheduler.SchedulingMode;
import org.apache.spark.scheduler.TaskSchedulerImpl;
import scala.reflect.ClassTag$;

/**
 * Takes the pool and the listener that the plugin has put into an idle application out, and puts them back.
 *
 * <p>Without them all task sets wait in Spark's own pool "default", as they do in its FAIR mode.
 */
public final class Toggle {
  private final SparkContext context;
  private final TaskSchedulerImpl scheduler;
  private final FairPool ours;
  private final Learner learner;
  private final Pool sparks = new Pool("default", SchedulingMode.FIFO(), 0, 1);

  public Toggle(SparkContext context) {
    this.context = context;
    scheduler = (TaskSchedulerImpl) context.taskScheduler();
    ours = (FairPool) scheduler.rootPool().schedulableQueue().peek();
    learner = context.listenerBus().findListenersByClass(ClassTag$.MODULE$.<Learner>apply(Learner.class)).head();
  }

  public void takeOut() {
    exchange(ours, sparks);
    context.listenerBus().removeListener(learner);
  }

  public void putBack() {
    exchange(sparks, ours);
    context.listenerBus().addToStatusQueue(learner);
  }

  private void exchange(Schedulable old, Schedulable fresh) {
    synchronized (scheduler) {
      scheduler.rootPool().removeSchedulable(old);
      scheduler.rootPool().addSchedulable(fresh);
    }
  }

  /** How many orders ours has given: none while it is out. */
  public long orders() {
    return ours.sorts();
  }
}

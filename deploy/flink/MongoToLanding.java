package dataplatform.flink;

import java.time.Duration;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.serialization.SimpleStringEncoder;
import org.apache.flink.cdc.connectors.mongodb.source.MongoDBSource;
import org.apache.flink.cdc.debezium.DebeziumDeserializationSchema;
import org.apache.flink.cdc.debezium.JsonDebeziumDeserializationSchema;
import org.apache.flink.connector.file.sink.FileSink;
import org.apache.flink.core.fs.Path;
import org.apache.flink.streaming.api.CheckpointingMode;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.sink.filesystem.OutputFileConfig;
import org.apache.flink.streaming.api.functions.sink.filesystem.bucketassigners.DateTimeBucketAssigner;
import org.apache.flink.streaming.api.functions.sink.filesystem.rollingpolicies.OnCheckpointRollingPolicy;

/**
 * Captures the contracted collections of one MongoDB deployment and lands the connector's own envelopes, one message a line.
 *
 * <p>Parallelism of the stream is one (a change stream has one order); the snapshot runs with the job's parallelism before it.
 * Files become visible when the checkpoint that holds their position is complete, so what `cdc import` reads is never ahead of
 * what the job will resume from; after a failure the job may land changes again, to the same positions.
 */
public final class MongoToLanding {
  public static void main(String[] arguments) throws Exception {
    String collections = env("COLLECTIONS"); // shop.articles,shop.users,…
    MongoDBSource<String> source =
        MongoDBSource.<String>builder()
            .hosts(env("MONGODB_HOSTS"))
            .username(env("MONGODB_USER"))
            .password(env("MONGODB_PASSWORD"))
            .databaseList(env("DATABASES").split(","))
            .collectionList(collections.split(","))
            .heartbeatIntervalMillis(10_000)
            .deserializer((DebeziumDeserializationSchema<String>) new JsonDebeziumDeserializationSchema())
            .build();

    FileSink<String> landing =
        FileSink.forRowFormat(new Path(env("LANDING")), new SimpleStringEncoder<String>("UTF-8"))
            .withBucketAssigner(new DateTimeBucketAssigner<>("yyyy-MM-dd/HH"))
            .withRollingPolicy(OnCheckpointRollingPolicy.build())
            .withOutputFileConfig(OutputFileConfig.builder().withPartSuffix(".ndjson").build())
            .build();

    StreamExecutionEnvironment job = StreamExecutionEnvironment.getExecutionEnvironment();
    job.enableCheckpointing(Duration.ofSeconds(60).toMillis(), CheckpointingMode.EXACTLY_ONCE);
    job.fromSource(source, WatermarkStrategy.noWatermarks(), "mongodb")
        .setParallelism(1)
        .sinkTo(landing)
        .setParallelism(1)
        .name("landing");
    job.execute("mongodb-to-landing");
  }

  private static String env(String name) {
    String value = System.getenv(name);
    if (value == null || value.isEmpty()) {
      throw new IllegalArgumentException("set " + name);
    }
    return value;
  }

  private MongoToLanding() {}
}

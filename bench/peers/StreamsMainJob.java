import java.io.IOException;
import java.io.UncheckedIOException;
import java.lang.management.ManagementFactory;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.Locale;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.avro.Schema;
import org.apache.avro.generic.GenericDatumReader;
import org.apache.avro.generic.GenericRecord;
import org.apache.avro.io.BinaryDecoder;
import org.apache.avro.io.DecoderFactory;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Produced;

/**
 * The main job on Kafka Streams: BOOTSTRAP SCHEMA SITES.csv IN OUT MESSAGES. At least once, lz4,
 * two threads, JSON written by hand. It ends after MESSAGES and prints what they cost.
 */
public class StreamsMainJob {
    private record Site(String name, String segment) {}

    private static final AtomicLong READ = new AtomicLong();
    private static final AtomicLong BYTES = new AtomicLong();
    private static final AtomicLong ROWS = new AtomicLong();
    private static volatile long startCpu;
    private static volatile long startWall;

    public static void main(String[] args) throws Exception {
        long count = Long.parseLong(args[5]);
        Schema schema = new Schema.Parser().parse(Path.of(args[1]).toFile());
        Map<Integer, Site> sites = new HashMap<>();
        for (String line : Files.readAllLines(Path.of(args[2])).stream().skip(1).toList()) {
            String[] cells = line.split(",", -1);
            sites.put(Integer.parseInt(cells[0]), new Site(cells[1], cells[2]));
        }
        ThreadLocal<GenericDatumReader<GenericRecord>> readers =
                ThreadLocal.withInitial(() -> new GenericDatumReader<>(schema));
        CountDownLatch done = new CountDownLatch(1);

        StreamsBuilder builder = new StreamsBuilder();
        builder.stream(args[3], Consumed.with(Serdes.ByteArray(), Serdes.ByteArray()))
                .mapValues(frame -> {
                    long read = READ.incrementAndGet();
                    if (read == 1) {
                        // Starting the JVM and joining the group are not the job.
                        startCpu = cpu();
                        startWall = System.nanoTime();
                    }
                    BYTES.addAndGet(frame.length);
                    byte[] row = enrich(frame, readers.get(), sites);
                    if (read == count) {
                        done.countDown();
                    }
                    return row;
                })
                .filter((key, row) -> row != null)
                .to(args[4], Produced.with(Serdes.ByteArray(), Serdes.ByteArray()));

        Properties config = new Properties();
        config.put(StreamsConfig.APPLICATION_ID_CONFIG, "streams-" + args[4]);
        config.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, args[0]);
        config.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 2);
        config.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, 1000);
        config.put(StreamsConfig.STATE_DIR_CONFIG, Files.createTempDirectory("streams").toString());
        config.put(StreamsConfig.consumerPrefix("auto.offset.reset"), "earliest");
        config.put(StreamsConfig.consumerPrefix("max.poll.records"), 5000);
        config.put(StreamsConfig.producerPrefix("compression.type"), "lz4");
        config.put(StreamsConfig.producerPrefix("linger.ms"), 20);
        config.put(StreamsConfig.producerPrefix("batch.size"), 512 << 10);
        KafkaStreams streams = new KafkaStreams(builder.build(), config);
        streams.start();
        done.await();
        // Closing flushes the producers and commits: what is not stored is not done.
        streams.close();
        report(count);
    }

    private static byte[] enrich(
            byte[] frame, GenericDatumReader<GenericRecord> reader, Map<Integer, Site> sites) {
        GenericRecord event;
        try {
            BinaryDecoder decoder =
                    DecoderFactory.get().binaryDecoder(frame, 5, frame.length - 5, null);
            event = reader.read(null, decoder);
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
        if (event.get("consent").toString().equals("DENIED")) {
            return null;
        }
        Site site = sites.get((Integer) ((GenericRecord) event.get("site")).get("id"));
        int status = (Integer) event.get("status");
        StringBuilder json = new StringBuilder(256);
        json.append("{\"uid\":").append(quoted(event.get("uid")));
        json.append(",\"seen_at\":").append(event.get("seen_at"));
        json.append(",\"url\":").append(quoted(event.get("url")));
        json.append(",\"status\":").append(status);
        json.append(",\"site_name\":").append(quoted(site == null ? null : site.name()));
        json.append(",\"segment\":").append(quoted(site == null ? null : site.segment()));
        json.append(",\"is_error\":").append(status >= 400).append('}');
        ROWS.incrementAndGet();
        return json.toString().getBytes(java.nio.charset.StandardCharsets.UTF_8);
    }

    private static String quoted(Object text) {
        return text == null
                ? "null"
                : '"' + text.toString().replace("\\", "\\\\").replace("\"", "\\\"") + '"';
    }

    private static long cpu() {
        return ((com.sun.management.OperatingSystemMXBean)
                        ManagementFactory.getOperatingSystemMXBean())
                .getProcessCpuTime();
    }

    private static void report(long count) throws IOException {
        double peakKib = Files.readAllLines(Path.of("/proc/self/status")).stream()
                .filter(line -> line.startsWith("VmHWM"))
                .mapToDouble(line -> Double.parseDouble(line.replaceAll("\\D+", "")))
                .findFirst()
                .orElse(0);
        System.out.println();
        System.out.printf(
                Locale.ROOT,
                "{\"name\":\"Kafka Streams main job, Kafka to Kafka\",\"messages\":%d,\"bytes\":%d,"
                        + "\"cpu_seconds\":%.3f,\"wall_seconds\":%.3f,\"peak_rss_mb\":%.1f,"
                        + "\"extra\":{\"rows\":%d}}",
                count,
                BYTES.get(),
                (cpu() - startCpu) / 1e9,
                (System.nanoTime() - startWall) / 1e9,
                peakKib / 1024,
                ROWS.get());
    }
}

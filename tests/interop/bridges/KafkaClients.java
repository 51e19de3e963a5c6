/*
 * The bridge to Apache Kafka's own Java clients (kafka-clients): the operations of face.py, a JSON line in, a JSON line out.
 * Jackson comes along with Kafka's own jars. Compiled at run time against each release.
 */

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.*;
import java.util.concurrent.*;
import java.util.function.Function;
import org.apache.kafka.clients.admin.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.*;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.protocol.Errors;
import org.apache.kafka.common.serialization.*;

public class KafkaClients {
    static final ObjectMapper JSON = new ObjectMapper();
    static final long ANSWER_TIMEOUT_S = 30;
    static final Map<String, String> ASSIGNORS = Map.of(
        "range", "RangeAssignor", "roundrobin", "RoundRobinAssignor",
        "sticky", "StickyAssignor", "cooperative-sticky", "CooperativeStickyAssignor");

    final String address;
    final Admin admin;
    final Map<String, Producer<byte[], byte[]>> producers = new HashMap<>();
    final Map<String, Reader> readers = new HashMap<>();

    KafkaClients(String address) {
        this.address = address;
        this.admin = Admin.create(Map.of("bootstrap.servers", address));
    }

    public static void main(String[] args) throws Exception {
        PrintStream answers = System.out;
        System.setOut(System.err);
        KafkaClients client = new KafkaClients(args[0]);
        BufferedReader requests = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line; (line = requests.readLine()) != null; ) {
            JsonNode request = JSON.readTree(line);
            ObjectNode answer = JSON.createObjectNode();
            try {
                answer.set("value", JSON.valueToTree(client.carryOut(request.get("op").asText(), request.get("args"))));
            } catch (NoSuchElementException absent) {
                answer.put("absent", absent.getMessage());
            } catch (Throwable thrown) {
                Throwable cause = thrown;
                while (cause instanceof ExecutionException && cause.getCause() != null) cause = cause.getCause();
                cause.printStackTrace();
                answer.put("error", cause.toString()).put("code", Errors.forException(cause).code());
            }
            answers.println(answer);
            answers.flush();
        }
        for (String name : List.copyOf(client.readers.keySet())) client.readers.remove(name).close();
        client.admin.close(Duration.ofSeconds(5));
        System.exit(0);
    }

    Object carryOut(String op, JsonNode a) throws Exception {
        if (op.startsWith("producer_")) return producing(op, a);
        if (op.startsWith("consumer_")) return consuming(op, a);
        if (op.startsWith("group_")) return groups(op, a);
        return administration(op, a);
    }

    // Producing

    Object producing(String op, JsonNode a) throws Exception {
        String name = a.get("name").asText();
        switch (op) {
            case "producer_open": producers.put(name, open(a)); return null;
            case "producer_send": return send(producers.get(name), a.get("topic").asText(), a.get("records"));
            case "producer_close": producers.remove(name).close(); return null;
            default: throw new NoSuchElementException(op);
        }
    }

    Producer<byte[], byte[]> open(JsonNode a) {
        Map<String, Object> wanted = new HashMap<>();
        wanted.put("bootstrap.servers", address);
        wanted.put("acks", a.path("acks").asText("all"));
        wanted.put("compression.type", a.path("codec").asText("none"));
        wanted.put("enable.idempotence", a.path("idempotent").asBoolean(false));
        wanted.put("linger.ms", 5);
        wanted.put("max.block.ms", 20_000);
        if (!a.path("patient").asBoolean(false)) {
            wanted.put("request.timeout.ms", 10_000);
            wanted.put("delivery.timeout.ms", 20_000);
        }
        if (a.hasNonNull("request_bytes_max")) wanted.put("max.request.size", a.get("request_bytes_max").asInt());
        return new KafkaProducer<>(wanted, new ByteArraySerializer(), new ByteArraySerializer());
    }

    Object send(Producer<byte[], byte[]> producer, String topic, JsonNode records) throws Exception {
        List<Future<RecordMetadata>> futures = new ArrayList<>();
        for (JsonNode one : records) {
            List<Header> headers = new ArrayList<>();
            for (JsonNode pair : one.path("h")) headers.add(new RecordHeader(pair.get(0).asText(), bytes(pair.get(1))));
            Integer partition = one.hasNonNull("p") ? one.get("p").asInt() : null;
            Long timestamp = one.hasNonNull("t") ? one.get("t").asLong() : null;
            futures.add(producer.send(new ProducerRecord<>(topic, partition, timestamp, bytes(one.get("k")), bytes(one.get("v")), headers)));
        }
        producer.flush();
        List<long[]> placed = new ArrayList<>();
        for (Future<RecordMetadata> future : futures) {
            RecordMetadata told = future.get(ANSWER_TIMEOUT_S, TimeUnit.SECONDS);
            placed.add(new long[] {told.partition(), told.hasOffset() ? told.offset() : -1});
        }
        return placed;
    }

    static byte[] bytes(JsonNode text) {
        return text == null || text.isNull() ? null : Base64.getDecoder().decode(text.asText());
    }

    static String text(byte[] bytes) {
        return bytes == null ? null : Base64.getEncoder().encodeToString(bytes);
    }

    // Consuming

    Object consuming(String op, JsonNode a) throws Exception {
        String name = a.get("name").asText();
        if (op.equals("consumer_open")) {
            readers.put(name, new Reader(a));
            return null;
        }
        Reader reader = readers.get(name);
        switch (op) {
            case "consumer_assigned": return reader.ask(consumer -> places(consumer.assignment()));
            case "consumer_assignments": return reader.assignments;
            case "consumer_take": return reader.take();
            case "consumer_close":
                readers.remove(name).close();
                return reader.take();
            case "consumer_commit":
                return reader.ask(consumer -> {
                    consumer.commitSync(positions(a.get("offsets")));
                    return null;
                });
            case "consumer_seek":
                return reader.ask(consumer -> {
                    consumer.seek(new TopicPartition(a.get("topic").asText(), a.get("partition").asInt()), a.get("offset").asLong());
                    return null;
                });
            case "consumer_committed": return reader.ask(consumer -> committed(consumer, a.get("partitions")));
            default: throw new NoSuchElementException(op);
        }
    }

    static List<List<Object>> committed(Consumer<byte[], byte[]> consumer, JsonNode wanted) {
        List<TopicPartition> places = placesOf(wanted);
        Map<TopicPartition, OffsetAndMetadata> found = consumer.committed(new HashSet<>(places));
        List<List<Object>> answer = new ArrayList<>();
        for (TopicPartition place : places) {
            OffsetAndMetadata one = found.get(place);
            answer.add(Arrays.asList(place.topic(), place.partition(), one == null ? null : one.offset(), one == null ? null : one.metadata()));
        }
        return answer;
    }

    static List<List<Object>> places(Collection<TopicPartition> partitions) {
        List<List<Object>> answer = new ArrayList<>();
        for (TopicPartition one : partitions) answer.add(List.of(one.topic(), one.partition()));
        return answer;
    }

    static List<TopicPartition> placesOf(JsonNode pairs) {
        List<TopicPartition> answer = new ArrayList<>();
        for (JsonNode one : pairs) answer.add(new TopicPartition(one.get(0).asText(), one.get(1).asInt()));
        return answer;
    }

    static Map<TopicPartition, OffsetAndMetadata> positions(JsonNode rows) {
        Map<TopicPartition, OffsetAndMetadata> answer = new HashMap<>();
        for (JsonNode row : rows)
            answer.put(
                new TopicPartition(row.get(0).asText(), row.get(1).asInt()),
                new OffsetAndMetadata(row.get(2).asLong(), row.has(3) ? row.get(3).asText("") : ""));
        return answer;
    }

    /** A consumer in a thread of its own, which polls, and carries out what is asked between two polls. */
    class Reader {
        final BlockingQueue<CompletableFuture<Void>> wakes = new ArrayBlockingQueue<>(16);
        final Queue<Runnable> asked = new ConcurrentLinkedQueue<>();
        final List<ObjectNode> read = new ArrayList<>();
        final Thread thread;
        volatile int assignments = 0;
        volatile boolean closing = false;
        volatile Throwable failure = null;
        Consumer<byte[], byte[]> consumer;

        Reader(JsonNode a) {
            thread = new Thread(() -> run(a));
            thread.setDaemon(true);
            thread.start();
        }

        void run(JsonNode a) {
            try {
                open(a);
                while (!closing) {
                    for (Runnable one; (one = asked.poll()) != null; ) one.run();
                    for (ConsumerRecord<byte[], byte[]> record : consumer.poll(Duration.ofMillis(100))) keep(record);
                }
                consumer.close();
            } catch (Throwable thrown) {
                thrown.printStackTrace();
                failure = thrown;
            }
        }

        void open(JsonNode a) {
            Map<String, Object> wanted = new HashMap<>();
            wanted.put("bootstrap.servers", address);
            wanted.put("enable.auto.commit", a.path("auto_commit").asBoolean(false));
            wanted.put("auto.offset.reset", "earliest");
            wanted.put("session.timeout.ms", 10_000);
            wanted.put("heartbeat.interval.ms", 500);
            wanted.put("max.partition.fetch.bytes", 4_000_000);
            if (a.hasNonNull("group")) wanted.put("group.id", a.get("group").asText());
            if (a.hasNonNull("instance")) wanted.put("group.instance.id", a.get("instance").asText());
            if (a.hasNonNull("strategy"))
                wanted.put("partition.assignment.strategy", "org.apache.kafka.clients.consumer." + ASSIGNORS.get(a.get("strategy").asText()));
            consumer = new KafkaConsumer<>(wanted, new ByteArrayDeserializer(), new ByteArrayDeserializer());
            if (a.hasNonNull("topics")) {
                List<String> topics = new ArrayList<>();
                for (JsonNode one : a.get("topics")) topics.add(one.asText());
                consumer.subscribe(topics, new ConsumerRebalanceListener() {
                    @Override
                    public void onPartitionsRevoked(Collection<TopicPartition> partitions) {}

                    @Override
                    public void onPartitionsAssigned(Collection<TopicPartition> partitions) {
                        assignments++;
                    }
                });
            } else {
                List<TopicPartition> places = placesOf(a.get("assign"));
                consumer.assign(places);
                begin(places, a.path("start"));
            }
        }

        void begin(List<TopicPartition> places, JsonNode start) {
            switch (start.path(0).asText("earliest")) {
                case "latest": consumer.seekToEnd(places); break;
                case "offset": for (TopicPartition one : places) consumer.seek(one, start.get(1).asLong()); break;
                case "time":
                    Map<TopicPartition, Long> times = new HashMap<>();
                    for (TopicPartition one : places) times.put(one, start.get(1).asLong());
                    consumer.offsetsForTimes(times).forEach((place, found) -> consumer.seek(place, found.offset()));
                    break;
                default: consumer.seekToBeginning(places);
            }
        }

        void keep(ConsumerRecord<byte[], byte[]> record) {
            ObjectNode one = JSON.createObjectNode();
            one.put("k", text(record.key())).put("v", text(record.value())).put("t", record.timestamp());
            one.put("topic", record.topic()).put("p", record.partition()).put("o", record.offset());
            ArrayNode headers = one.putArray("h");
            for (Header header : record.headers()) headers.addArray().add(header.key()).add(text(header.value()));
            synchronized (read) {
                read.add(one);
            }
        }

        Object take() throws Exception {
            if (failure != null) throw new ExecutionException(failure);
            synchronized (read) {
                List<ObjectNode> taken = new ArrayList<>(read);
                read.clear();
                return taken;
            }
        }

        Object ask(Function<Consumer<byte[], byte[]>, Object> what) throws Exception {
            if (failure != null) throw new ExecutionException(failure);
            CompletableFuture<Object> answer = new CompletableFuture<>();
            asked.add(() -> {
                try {
                    answer.complete(what.apply(consumer));
                } catch (Throwable thrown) {
                    answer.completeExceptionally(thrown);
                }
            });
            return answer.get(ANSWER_TIMEOUT_S, TimeUnit.SECONDS);
        }

        void close() throws Exception {
            closing = true;
            thread.join(ANSWER_TIMEOUT_S * 1000);
            if (failure != null) throw new ExecutionException(failure);
        }
    }

    // Administration

    static <T> T get(KafkaFuture<T> future) throws Exception {
        return future.get(ANSWER_TIMEOUT_S, TimeUnit.SECONDS);
    }

    Object administration(String op, JsonNode a) throws Exception {
        String topic = a.path("topic").asText();
        switch (op) {
            case "facts": return Map.ofEntries(
                Map.entry("binary", true), Map.entry("reads_binary", true), Map.entry("timestamps", true), Map.entry("null_keys", true),
                Map.entry("null_values", true), Map.entry("empty_values", true), Map.entry("headers", true),
                Map.entry("null_headers", true), Map.entry("joins_at_once", true), Map.entry("lasting_producers", true),
                Map.entry("partitions", true), Map.entry("blind", List.of()), Map.entry("record_bytes_max", 900_000),
                Map.entry("codecs", List.of("none", "gzip", "snappy", "lz4", "zstd")));
            case "topic_create":
                Map<String, String> configs = new HashMap<>();
                a.get("configs").fields().forEachRemaining(one -> configs.put(one.getKey(), one.getValue().asText()));
                NewTopic made = new NewTopic(topic, a.get("partitions").asInt(), (short) a.get("replicas").asInt()).configs(configs);
                return get(admin.createTopics(List.of(made)).all());
            case "topic_delete": return get(admin.deleteTopics(List.of(topic)).all());
            case "topic_list": return get(admin.listTopics().names());
            case "topic_describe": return describe(get(admin.describeTopics(List.of(topic)).allTopicNames()).get(topic));
            case "topic_grow": return get(admin.createPartitions(Map.of(topic, NewPartitions.increaseTo(a.get("partitions").asInt()))).all());
            case "config_describe": {
                ConfigResource resource = new ConfigResource(ConfigResource.Type.TOPIC, topic);
                Map<String, String> found = new HashMap<>();
                for (ConfigEntry one : get(admin.describeConfigs(List.of(resource)).all()).get(resource).entries()) found.put(one.name(), one.value());
                return found;
            }
            case "config_alter": {
                List<AlterConfigOp> wanted = new ArrayList<>();
                a.get("configs").fields().forEachRemaining(
                    one -> wanted.add(new AlterConfigOp(new ConfigEntry(one.getKey(), one.getValue().asText()), AlterConfigOp.OpType.SET)));
                return get(admin.incrementalAlterConfigs(Map.of(new ConfigResource(ConfigResource.Type.TOPIC, topic), wanted)).all());
            }
            case "records_delete":
                get(admin.deleteRecords(Map.of(place(a), RecordsToDelete.beforeOffset(a.get("offset").asLong()))).all());
                return null;
            case "offsets": return List.of(offset(place(a), OffsetSpec.earliest()), offset(place(a), OffsetSpec.latest()));
            case "offset_at": {
                long found = offset(place(a), OffsetSpec.forTimestamp(a.get("timestamp_ms").asLong()));
                return found < 0 ? null : found;
            }
            case "cluster_describe": {
                DescribeClusterResult found = admin.describeCluster();
                List<Integer> brokers = new ArrayList<>();
                for (Node one : get(found.nodes())) brokers.add(one.id());
                return Map.of("brokers", brokers, "controller", get(found.controller()).id(), "cluster", get(found.clusterId()));
            }
            case "log_dirs": return logDirs();
            default: throw new NoSuchElementException("not of this client: " + op);
        }
    }

    static TopicPartition place(JsonNode a) {
        return new TopicPartition(a.get("topic").asText(), a.get("partition").asInt());
    }

    long offset(TopicPartition place, OffsetSpec spec) throws Exception {
        return get(admin.listOffsets(Map.of(place, spec)).all()).get(place).offset();
    }

    static List<Map<String, Object>> describe(TopicDescription found) {
        List<Map<String, Object>> rows = new ArrayList<>();
        for (TopicPartitionInfo one : found.partitions())
            rows.add(Map.of(
                "partition", one.partition(), "leader", one.leader() == null ? -1 : one.leader().id(),
                "replicas", one.replicas().stream().map(Node::id).toList(), "isr", one.isr().stream().map(Node::id).toList()));
        return rows;
    }

    Object logDirs() throws Exception {
        List<Integer> brokers = new ArrayList<>();
        for (Node one : get(admin.describeCluster().nodes())) brokers.add(one.id());
        Map<String, Map<String, Long>> answer = new HashMap<>();
        get(admin.describeLogDirs(brokers).allDescriptions()).forEach((broker, dirs) -> {
            Map<String, Long> sizes = answer.computeIfAbsent(broker.toString(), any -> new HashMap<>());
            dirs.values().forEach(dir -> dir.replicaInfos().forEach((place, info) -> sizes.put(place.topic() + "-" + place.partition(), info.size())));
        });
        return answer;
    }

    Object groups(String op, JsonNode a) throws Exception {
        String group = a.path("group").asText();
        switch (op) {
            case "group_list": {
                List<String> names = new ArrayList<>();
                for (ConsumerGroupListing one : get(admin.listConsumerGroups().all())) names.add(one.groupId());
                return names;
            }
            case "group_describe": {
                ConsumerGroupDescription found = get(admin.describeConsumerGroups(List.of(group)).all()).get(group);
                return Map.of("state", found.state().toString(), "strategy", found.partitionAssignor(), "members", found.members().size());
            }
            case "group_offsets": {
                List<List<Object>> rows = new ArrayList<>();
                get(admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata()).forEach(
                    (place, one) -> rows.add(Arrays.asList(place.topic(), place.partition(), one.offset(), one.metadata())));
                return rows;
            }
            case "group_set_offsets": return get(admin.alterConsumerGroupOffsets(group, positions(a.get("offsets"))).all());
            case "group_delete_offsets": return get(admin.deleteConsumerGroupOffsets(group, Set.of(place(a))).all());
            case "group_delete": return get(admin.deleteConsumerGroups(List.of(group)).all());
            default: throw new NoSuchElementException("not of this client: " + op);
        }
    }
}

import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;
import java.net.http.WebSocket;
import java.security.MessageDigest;
import java.time.Duration;
import java.util.HexFormat;
import java.util.Random;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;
import java.util.stream.IntStream;

/** Java's HttpClient. Prints a line for each thing that it found out: URL VERSION, and what else: nothing, `expect SECONDS`, or the URL of a WebSocket. */
public class Client {
    public static void main(String[] arguments) throws Exception {
        var base = arguments[0];
        var version = HttpClient.Version.valueOf(arguments[1]);
        var client = HttpClient.newBuilder().version(version).connectTimeout(Duration.ofSeconds(60)).build();
        var limit = Duration.ofSeconds(60);

        var get = HttpRequest.newBuilder(URI.create(base + "/a/b%20c?d=e")).header("x-own", "value").timeout(limit).build();
        var answer = client.send(get, BodyHandlers.ofString());
        System.out.println("get " + answer.statusCode() + " " + answer.version() + " " + answer.body());

        var body = new byte[1 << 20];
        new Random(1).nextBytes(body);
        var post = HttpRequest.newBuilder(URI.create(base + "/x")).POST(BodyPublishers.ofByteArray(body)).timeout(limit).build();
        var digest = HexFormat.of().formatHex(MessageDigest.getInstance("SHA-256").digest(body));
        System.out.println("post " + client.send(post, BodyHandlers.ofString()).body().contains(digest));

        var many = IntStream.range(0, 50).mapToObj(number -> HttpRequest.newBuilder(URI.create(base + "/n/" + number)).timeout(limit).build())
                .map(request -> client.sendAsync(request, BodyHandlers.ofString())).toList();
        var right = IntStream.range(0, 50).filter(number -> many.get(number).join().body().contains("\"/n/" + number + "\"")).count();
        System.out.println("many " + right);

        if (arguments[2].startsWith("expect ")) { // it sends nothing before it was told to go on
            var patience = Duration.ofSeconds(Integer.parseInt(arguments[2].substring("expect ".length())));
            var careful = HttpRequest.newBuilder(URI.create(base + "/x"))
                    .expectContinue(true).POST(BodyPublishers.ofString("careful")).timeout(patience).build();
            System.out.println("expect " + client.send(careful, BodyHandlers.ofString()).body().contains("\"length\":7"));
        } else if (!arguments[2].isEmpty()) {
            var got = new CompletableFuture<String>();
            var socket = client.newWebSocketBuilder().buildAsync(URI.create(arguments[2]), new WebSocket.Listener() {
                @Override
                public CompletionStage<?> onText(WebSocket socket, CharSequence data, boolean last) {
                    got.complete(data.toString());
                    return WebSocket.Listener.super.onText(socket, data, last);
                }
            }).join();
            socket.sendText("grüße", true).join();
            System.out.println("socket " + got.join());
            socket.sendClose(WebSocket.NORMAL_CLOSURE, "done").join();
        }
    }
}
